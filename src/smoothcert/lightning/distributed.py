"""DDP with unequal validation batches, and checkpoints that are written atomically."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from smoothcert.errors import CheckpointError
from smoothcert.records import write_atomically


class SmoothedDDP(DDPStrategy):
    """Lightning's DDP, where processes may validate different numbers of batches.

    Lightning passes each validation batch through `DistributedDataParallel`, which waits for the
    buffers of all processes: a process with one batch more would wait for ever.
    """

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Validate a batch in this process alone; the module has made all networks equal."""
        assert self.lightning_module is not None, "Lightning validates a module"
        with self.precision_plugin.val_step_context():
            return self.lightning_module.validation_step(*args, **kwargs)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints next to their path and renames them, so that a kill leaves the old file.

    Lightning writes them to the system's temporary folder, and copies them if that is on another
    file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: if it cannot be written; an earlier checkpoint is then unchanged.
        """
        if storage_options is not None:
            raise TypeError("Expected no storage_options: checkpoints are files")
        path = Path(path)
        contents = io.BytesIO()
        torch.save(checkpoint, contents)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, contents.getvalue())
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error.strerror}. An earlier checkpoint is kept. "
                "Resume with: run=<run folder>"
            ) from error
