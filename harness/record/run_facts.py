"""run.json: what reports need to know of a Run beside its Records, so that they can be made where no checkpoint is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness.checkpoints.verify import Storage, Structure


class Kept(BaseModel):
    """Keys that this version does not know are left out: they are another version's, and nothing here depends on them."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class VariantFacts(Kept):
    """What is known of one variant's checkpoint."""

    origin: Literal["source", "recipe", "checkpoint", "run", "imported"] | None = None
    """Where it comes from: the model itself, a recipe, a folder, another Run, or another tool's results."""
    checkpoint: str | None = None
    """Its folder, relative to where the Run was made."""
    content: str | None = None
    """Hash of its files; null where it was not built."""
    compared_with: str | None = None
    """The variant that it is compared with; null: the Run's baseline."""
    recipe: dict[str, Any] | None = None
    """The recipe as it was resolved, see quantize/methods."""
    storage: Storage | None = None
    """Bytes on disk."""
    structure: Structure | None = None
    """Linears by part, packed and plain."""
    manifest: dict[str, Any] | None = None
    """manifest.json of a checkpoint that was built here, see quantize/finish.py."""
    run: str | None = None
    """The Run that measured it, for origin `run`."""

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of its safetensors files; None where it was not built."""
        return self.storage.safetensors_bytes if self.storage else None

    @property
    def unbuilt(self) -> bool:
        """Whether the plan found nothing to measure. A Run of another tool's results does not say."""
        return self.content is None and "content" in self.model_fields_set


class RunFacts(Kept):
    """The whole file."""

    suite: dict[str, Any]
    """The suite as it was resolved; kept as it was written, since a suite of an earlier version may not be one today."""
    baseline: str
    """The variant that the others are compared with."""
    variants: dict[str, VariantFacts]
    """In the order of the tables."""
    cells: list[str]
    """Keys of the Cells planned last, in the plan's order."""
    labels: dict[str, str] = {}
    """What those Cells are called, by key; empty in a Run of an earlier version."""

    def variant(self, name: str) -> VariantFacts:
        """What is known of a variant; nothing of one that is not here."""
        return self.variants.get(name) or VariantFacts()

    def compared_with(self, name: str) -> str:
        """The variant that this one is compared with."""
        return self.variant(name).compared_with or self.baseline

    @property
    def settings(self) -> dict[str, tuple[str, str]]:
        """The variants on the suite's `settings` axis: what each is called without its setting, and the setting."""
        variants: dict[str, dict[str, Any] | None] = self.suite.get("variants") or {}
        asked = {name: (spec or {}).get("settings") for name, spec in variants.items()}
        if not any("settings" in (spec or {}) for spec in variants.values()):
            # Suites of earlier versions said it in the name alone.
            asked = {name: name.rpartition("@")[2] for name in variants if "@" in name}
        return {name: (name.removesuffix(f"@{setting}"), setting) for name, setting in asked.items() if setting is not None}

    def cell(self, key: str) -> tuple[str, str]:
        """Variant and place of a planned Cell without a Record."""
        # The run.json of an earlier version does not say what its Cells are called.
        name, _, place = self.labels.get(key, f"a variant/{key}").partition("/")
        return name, place
