"""Makes page/vega.js anew: `python -m reports.page.vendor`, with `pip install vl-convert-python`, which carries the scripts.

Vega, Vega-Lite and vega-embed, bundled into one script that sets `vegaEmbed`; see page/vega.LICENSE.
"""

from __future__ import annotations

from pathlib import Path


def main() -> None:
    """Write the bundle."""
    import vl_convert  # pip install vl-convert-python

    versions = f"vega {vl_convert.get_vega_version()}, vega-lite {vl_convert.get_vegalite_versions()[-1]}"
    head = f"/* {versions}, vega-embed {vl_convert.get_vega_embed_version()}; BSD-3-Clause, see vega.LICENSE. */\n"
    bundle = vl_convert.javascript_bundle(vl_version=vl_convert.get_vegalite_versions()[-1])
    assert "</script" not in bundle.lower()
    Path(__file__).with_name("vega.js").write_text(f"{head}(()=>{{{bundle}}})();\n", encoding="utf-8")


if __name__ == "__main__":
    main()
