"""Tiny networks of other projects with random weights, saved in the layouts in which published ones lie."""

from __future__ import annotations

import string
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

WORDS = "a the cat dog rainbow photo of car red one thing"


def clip_tokenizer(most: int) -> Any:
    from transformers import CLIPTokenizer

    plain = [*string.ascii_lowercase, *string.digits, *".,'-"]
    pieces = [*plain, *(f"{each}</w>" for each in plain), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={each: i for i, each in enumerate(pieces)}, merges=[], model_max_length=most)


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    letters = string.ascii_lowercase + string.digits
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,'-", *WORDS.split(), *letters]
    pieces = list(dict.fromkeys([*pieces, *(f"##{each}" for each in letters)]))
    return BertTokenizer(vocab={each: i for i, each in enumerate(pieces)})


def save_model(folder: Path, family: str) -> Path:
    """Write a family's tiny model, always the same, and return its folder."""
    torch.manual_seed(0)
    for each in _MAKERS[family]():
        each.save_pretrained(folder)
    return folder


def _transformer(**more: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, **more}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _transformer(vocab_size=len(tokenizer), **ends, **more)


_DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 64,
    "iou_head_hidden_dim": 32,
    "iou_head_depth": 2,
}


def _sam(prefix: str) -> list[Any]:
    tf: Any = import_module("transformers")

    vision = {
        "hidden_size": 32,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
        "num_pos_feats": 16,
    }
    prompts = {
        "hidden_size": 32,
        "image_size": 64,
        "patch_size": 8,
        "mask_input_channels": 8,
        "image_embedding_size": 8,
    }
    decoder = _DECODER if prefix == "Sam" else {**_DECODER, "vit_dim": 32}
    config = getattr(tf, f"{prefix}Config")(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    images = tf.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return [getattr(tf, f"{prefix}Model")(config), getattr(tf, f"{prefix}Processor")(images)]


def _memory(side: int) -> dict[str, Any]:
    """What the video models have beside the others."""
    return {
        "image_size": side,
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 8,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_num_layers": 1,
        "mask_downsampler_embed_dim": 32,
    }


def _sam2(*, video: bool) -> list[Any]:
    """Published files are those of the video model."""
    tf: Any = import_module("transformers")

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "image_size": [128, 128],
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    parts = {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 32,
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 8},
        "mask_decoder_config": _DECODER,
    }
    images = tf.Sam2ImageProcessor(size={"height": 128, "width": 128})
    if not video:
        return [tf.Sam2Model(tf.Sam2Config(**parts)), tf.Sam2Processor(images)]
    frames = tf.Sam2VideoVideoProcessor(size={"height": 128, "width": 128})
    network = tf.Sam2VideoModel(tf.Sam2VideoConfig(**parts, **_memory(128)))
    return [network, tf.Sam2VideoProcessor(images, frames)]


def _sam3() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = clip_tokenizer(32)
    part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }
    detector = {
        "vision_config": vision,
        "text_config": _text(tokenizer, max_position_embeddings=32, projection_dim=32, model_type="clip_text_model"),
        "geometry_encoder_config": {**part, "num_layers": 1},
        "detr_encoder_config": {**part, "num_layers": 1},
        "detr_decoder_config": {**part, "num_layers": 2, "num_queries": 10},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }
    tracker = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 112, "patch_size": 14, "mask_input_channels": 8},
        "mask_decoder_config": _DECODER,
        **_memory(112),
    }
    network = tf.Sam3VideoModel(tf.Sam3VideoConfig(detector_config=detector, tracker_config=tracker))
    images = tf.Sam3ImageProcessor(size={"height": 112, "width": 112})
    return [network, tf.Sam3Processor(images, tokenizer)]


def _grounding_dino(prefix: str) -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = bert_tokenizer()
    backbone = tf.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(tf, f"{prefix}Config")(
        backbone_config=backbone,
        text_config=_transformer(model_type="bert", vocab_size=len(tokenizer), max_position_embeddings=256),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
    )
    images = tf.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return [getattr(tf, f"{prefix}ForObjectDetection")(config), tf.GroundingDinoProcessor(images, tokenizer)]


def _owlv2() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = clip_tokenizer(16)
    text = _text(tokenizer, max_position_embeddings=16, pad_token_id=0)
    vision = _transformer(image_size=64, patch_size=16)
    config = tf.Owlv2Config(text_config=text, vision_config=vision, projection_dim=32)
    images = tf.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    return [tf.Owlv2ForObjectDetection(config), tf.Owlv2Processor(images, tokenizer)]


def _clipseg() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = clip_tokenizer(77)
    config = tf.CLIPSegConfig(
        text_config=_text(tokenizer),
        vision_config={**_transformer(image_size=64, patch_size=16), "num_hidden_layers": 3},
        projection_dim=32,
        reduce_dim=16,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    images = tf.ViTImageProcessor(size={"height": 64, "width": 64})
    return [tf.CLIPSegForImageSegmentation(config), tf.CLIPSegProcessor(images, tokenizer)]


def _groupvit() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = clip_tokenizer(77)
    vision = {
        **_transformer(image_size=64, patch_size=16),
        "depths": [2, 1, 1],
        "num_hidden_layers": 4,
        "num_group_tokens": [8, 4, 0],
        "num_output_groups": [8, 4, 4],
    }
    config = tf.GroupViTConfig(
        text_config=_text(tokenizer), vision_config=vision, projection_dim=32, projection_intermediate_dim=32
    )
    return [tf.GroupViTModel(config), tf.CLIPProcessor(_clip_images(), tokenizer)]


def _clip() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = clip_tokenizer(77)
    vision = {**_transformer(image_size=64, patch_size=16), "num_hidden_layers": 2}
    config = tf.CLIPConfig(text_config=_text(tokenizer), vision_config=vision, projection_dim=32)
    return [tf.CLIPModel(config), tf.CLIPProcessor(_clip_images(), tokenizer)]


def _clip_images() -> Any:
    tf: Any = import_module("transformers")

    return tf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


def _siglip() -> list[Any]:
    tf: Any = import_module("transformers")

    tokenizer = bert_tokenizer()
    text = _transformer(vocab_size=len(tokenizer), max_position_embeddings=64)
    vision = {**_transformer(image_size=64, patch_size=16), "num_hidden_layers": 2}
    config = tf.SiglipConfig(text_config=text, vision_config=vision)
    return [
        tf.SiglipModel(config),
        tf.SiglipProcessor(tf.SiglipImageProcessor(size={"height": 64, "width": 64}), tokenizer),
    ]


_MAKERS: dict[str, Callable[[], list[Any]]] = {
    "sam": lambda: _sam("Sam"),
    "sam_hq": lambda: _sam("SamHQ"),
    "sam2": lambda: _sam2(video=False),
    "sam2_video": lambda: _sam2(video=True),
    "sam3_video": _sam3,
    "grounding-dino": lambda: _grounding_dino("GroundingDino"),
    "mm-grounding-dino": lambda: _grounding_dino("MMGroundingDino"),
    "owlv2": _owlv2,
    "clipseg": _clipseg,
    "groupvit": _groupvit,
    "clip": _clip,
    "siglip": _siglip,
}
FAMILIES = tuple(_MAKERS)
