"""Named and file data sets as tensors, with a standardisation that can be undone."""

from proxflow.data.built_in import BUILT_IN
from proxflow.data.dataset import Dataset
from proxflow.data.in_memory import from_array, from_frame
from proxflow.data.loading import load
from proxflow.data.mapped import mapped_rows
from proxflow.data.standardisation import Standardisation

__all__ = ["BUILT_IN", "Dataset", "Standardisation", "from_array", "from_frame", "load", "mapped_rows"]
