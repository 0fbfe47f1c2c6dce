"""What the device can do: bytes a second of a copy, operations a second of a matrix product. Prints one line of JSON.

A process of its own, so that the device's memory is free again before an engine starts.
"""

import json
import sys
import time

import torch


def best(action, repeats: int, synchronize) -> float:  # type: ignore[no-untyped-def]
    """Seconds of the fastest of up to `repeats` runs, begun within a second: what the device can do, not its average."""
    action()
    synchronize()
    taken: list[float] = []
    while not taken or (len(taken) < repeats and sum(taken) < 1):
        began = time.perf_counter()
        action()
        synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    gpu = sys.argv[1] == "gpu"
    place = "cuda" if gpu else "cpu"
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    size, side, repeats = (2**30, 8192, 20) if gpu else (2**28, 1024, 10)
    source = torch.zeros(size, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    copied = best(lambda: target.copy_(source), repeats, synchronize)
    left = torch.randn(side, side, device=place).to(torch.bfloat16)
    right = torch.randn(side, side, device=place).to(torch.bfloat16)
    product = best(lambda: left @ right, repeats, synchronize)
    print(
        json.dumps(
            {
                "bytes_per_s": 2 * size / copied,
                "flops_per_s": 2 * side**3 / product,
                "copy_bytes": size,
                "matrix_side": side,
                "threads": None if gpu else torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
