"""The demo model's shape, and a batched forward through the modules of transformers' own Qwen3-VL.

The packed forward of transformers handles pictures of any size one after the other. All training pictures share one
size, so here a batch is one tensor: patches are one matrix product and the rotary tables are made once. The parameters
are those of the transformers model, and the logits equal its own (`evaluate.check_against_transformers`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from harness.demo import tokenizer as words
from harness.demo.drawing import SIZE

PATCH = 8
MERGE = 2
GRID = SIZE // PATCH
"""Patches a side."""
IMAGE_TOKENS = (GRID // MERGE) ** 2
TEXT_TOKENS = 48
"""Room after the picture for the question, the answer and its end token."""


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """A freshly initialised model in float32 from torch's global seed; about 4.4 million parameters."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in words.SPECIAL_TOKENS}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids[words.END],
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 256,
            "num_position_embeddings": GRID * GRID,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    return Qwen3VLForConditionalGeneration(config)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding; x is (batch, heads, tokens, width), the tables (tokens, width)."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class BatchedForward(nn.Module):
    """The model's forward for a batch of equal conversations: one picture, one question, one answer."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        prefix = tokenizer(words.IMAGE_PREFIX)["input_ids"]
        self.image_start = len(prefix)
        device = model.device
        self.register_buffer("prefix", torch.tensor(prefix, device=device), persistent=False)
        rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        # Patches are ordered merge window by merge window, as the image processor orders them.
        order = (torch.arange(GRID * GRID).view(GRID // MERGE, MERGE, GRID // MERGE, MERGE)).transpose(1, 2).flatten()
        patch_places = torch.stack((rows.flatten()[order], columns.flatten()[order]), dim=1).to(device)
        self.register_buffer("patch_order", order.to(device), persistent=False)
        # A picture's tokens share the time position of its start; text goes on after its longest side.
        side = GRID // MERGE
        before = torch.arange(self.image_start).expand(3, -1)
        token_rows, token_columns = (torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side))
        image = torch.stack((torch.zeros_like(token_rows), token_rows, token_columns)) + self.image_start
        after = torch.arange(TEXT_TOKENS).expand(3, -1) + self.image_start + side
        positions = torch.cat((before, image, after), dim=1)[:, None].to(device)
        visual, language = model.model.visual, model.model.language_model
        probe = torch.zeros(1, device=device, dtype=torch.float32)
        tables = (*visual.rotary_pos_emb(probe, patch_places), *(t[0] for t in language.rotary_emb(probe, positions)))
        for name, table in zip(("vision_cos", "vision_sin", "text_cos", "text_sin"), tables, strict=True):
            self.register_buffer(name, table.float(), persistent=False)

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures (batch, SIZE, SIZE, 3) to image tokens and deepstack features, (batch, IMAGE_TOKENS, 256)."""
        visual = self.model.model.visual
        batch, side = pixels.shape[0], GRID // MERGE
        weight = visual.patch_embed.proj.weight
        patches = pixels.view(batch, side, MERGE, PATCH, side, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
        patches = (patches.reshape(batch, GRID * GRID, -1).float() / 127.5 - 1).to(weight.dtype)
        # A still picture is two equal frames, so the two time slices of the kernel add up.
        x = F.linear(patches, weight.sum(2).flatten(1), visual.patch_embed.proj.bias)
        x = x + visual.pos_embed.weight[self.patch_order].to(x.dtype)
        deepstack = None
        for index, block in enumerate(visual.blocks):
            qkv = block.attn.qkv(block.norm1(x)).view(batch, GRID * GRID, 3, block.attn.num_heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            q, k = _rotate(q, self.vision_cos, self.vision_sin), _rotate(k, self.vision_cos, self.vision_sin)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, GRID * GRID, -1)
            x = x + block.attn.proj(mixed)
            x = x + block.mlp(block.norm2(x))
            if index in visual.deepstack_visual_indexes:
                deepstack = visual.deepstack_merger_list[0](x).view(batch, IMAGE_TOKENS, -1)
        return visual.merger(x).view(batch, IMAGE_TOKENS, -1), deepstack

    def read(self, seen: Tensor, deepstack: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states after the last layer at the text behind the picture, (batch, text, 256).

        `tokens` (batch, text) is that text, at most TEXT_TOKENS of it; the model is causal, so padding on the right
        changes nothing before it.
        """
        language = self.model.model.language_model
        batch = tokens.shape[0]
        before = language.embed_tokens(self.prefix).expand(batch, -1, -1)
        x = torch.cat((before, seen.to(before.dtype), language.embed_tokens(tokens)), dim=1)
        length = x.shape[1]
        cos, sin = self.text_cos[:length], self.text_sin[:length]
        extra = F.pad(deepstack, (0, 0, self.image_start, tokens.shape[1]))
        for index, layer in enumerate(language.layers):
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            shape = (batch, length, -1, attention.head_dim)
            q = _rotate(attention.q_norm(attention.q_proj(h).view(shape)).transpose(1, 2), cos, sin)
            k = _rotate(attention.k_norm(attention.k_proj(h).view(shape)).transpose(1, 2), cos, sin)
            v = attention.v_proj(h).view(shape).transpose(1, 2)
            k, v = (t.repeat_interleave(attention.num_key_value_groups, dim=1) for t in (k.to(v.dtype), v))
            mixed = F.scaled_dot_product_attention(q.to(v.dtype), k, v, is_causal=True)
            x = x + attention.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            if index == 0:
                x = x + extra.to(x.dtype)
        return language.norm(x)[:, self.image_start + IMAGE_TOKENS :]

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits at the text behind the picture, (batch, text, vocabulary)."""
        return self.model.lm_head(self.read(*self.see(pixels), tokens))
