"""Serve a GGUF file with OpenAI's protocol on this machine, by llama.cpp in PyPI's package xllamacpp.

python recipes/coverage/serve.py SmolLM2-135M-Instruct.Q4_1.gguf --port 8123 --name smollm2
"""

from __future__ import annotations

import argparse
import time


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", help="the .gguf file")
    parser.add_argument("--port", type=int, default=8123, help="default: %(default)s")
    parser.add_argument("--name", default="smollm2", help="name of the model (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=4, help="requests answered at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()

    import xllamacpp  # type: ignore[import-not-found]

    settings = xllamacpp.CommonParams()
    settings.model.path = args.file
    settings.model_alias = {args.name}
    settings.hostnames = ["127.0.0.1"]
    settings.port = args.port
    settings.n_parallel, settings.n_ctx = args.slots, 2048 * args.slots
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = args.threads
    server = xllamacpp.Server(settings)
    print(f"Serving {args.name} at {server.listening_address}/v1", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
