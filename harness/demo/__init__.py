"""The embedded demo: a small vision-language model, the questions it answers, and the script that trained it.

`data` makes the questions (numpy, Pillow, scikit-learn); `train` made the model in `MODEL_DIR`. Importing this
package or `data` loads no deep-learning library.
"""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""The checkpoint's folder: loads with transformers and with vLLM as it is."""
