"""ONNX Runtime's execution providers: which to ask for, and whether the one in force is the one asked for. Pure.

A provider whose libraries or driver are missing is left out by the runtime with no more than a line of its own, so what a
session says afterwards is compared with what was wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evenkeel.serve.contract.manifest import Gpu
from evenkeel.serve.engine.backends.gpu.assigned_device import memory_limit

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
WORDS = {CUDA: "cuda", TENSORRT: "tensorrt", CPU: "cpu"}
Provider = tuple[str, Mapping[str, str]]


def wanted(
    gpu: Gpu, device: str, available: Sequence[str], gpu_bytes: int | None = None, sharers: int = 1, cache: str = ""
) -> list[Provider]:
    """Best first. Without a device, or with a wheel that has none of them, only the CPU. `gpu_bytes`: the memory of the GPU,
    None where nobody could say; `sharers`: replicas that use it; `cache`: a folder for what TensorRT builds, "" for none."""
    best = [TENSORRT, CUDA] if gpu.tensorrt else [CUDA]
    usable = [name for name in best if name in available] if device else []
    return [*((name, options(name, gpu, gpu_bytes, sharers, cache)) for name in usable), (CPU, {})]


def options(name: str, gpu: Gpu, gpu_bytes: int | None, sharers: int = 1, cache: str = "") -> Mapping[str, str]:
    """Device 0 is the only one that an engine sees."""
    if name == TENSORRT:
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache,
                "trt_timing_cache_enable": "1", "trt_timing_cache_path": cache}  # fmt: skip
        return {"device_id": "0", "trt_fp16_enable": str(int(gpu.dtype == "fp16")), **(kept if cache else {})}
    limit = limit_bytes(gpu, gpu_bytes, sharers)
    return {
        "device_id": "0",
        **({"gpu_mem_limit": str(limit)} if limit else {}),  # of its arena; cuDNN and the CUDA context come on top
        # The default doubles the arena each time, which takes a GPU from its neighbours faster than models need it.
        "arena_extend_strategy": "kSameAsRequested",
        # The default measures every algorithm anew for every shape, in the middle of service where a shape is new.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": str(int(gpu.dtype == "tf32")),  # on by default there: answers that differ from the CPU's must be asked for
    }


def limit_bytes(gpu: Gpu, gpu_bytes: int | None, sharers: int = 1) -> int:
    """What one replica may allocate of the GPU; 0: nobody knows."""
    return memory_limit(gpu, gpu_bytes, sharers) if gpu_bytes else (gpu.memory_mb or 0) << 20


def recording(providers: Sequence[Provider]) -> list[Provider]:
    """CUDA graphs are recorded at the runs that ask for it. A model that has a part on the CPU is refused then."""
    return [(name, {**options, "enable_cuda_graph": "1"} if name == CUDA else options) for name, options in providers]


def on_stream(providers: Sequence[Provider], stream: int) -> list[Provider]:
    """All that compute on the device do so on this stream, in order; TensorRT's wants the same as the one behind it."""
    return [(name, options if name == CPU else {**options, "user_compute_stream": str(stream)}) for name, options in providers]


def why_not(gpu: Gpu, device: str, available: Sequence[str], in_force: Sequence[str]) -> str:
    """Why the best provider does not run the model, and what to do; "" when it does, or when there is no device."""
    best = TENSORRT if gpu.tensorrt else CUDA
    if not device or best in in_force[:1]:
        return ""
    if best not in available:
        has = ", ".join(WORDS.get(name, name) for name in available)
        return f"this onnxruntime has no {WORDS[best]} provider, only {has}: use the GPU image, or install onnxruntime-gpu"
    runs = WORDS.get(in_force[0], in_force[0]) if in_force else "nothing"
    return (f"onnxruntime could not start its {WORDS[best]} provider, and {runs} runs the model: most often the driver is too "
            "old for this CUDA, or a library is missing; onnxruntime's own lines in the log may say which")  # fmt: skip
