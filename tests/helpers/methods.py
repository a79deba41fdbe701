"""Quick settings, and the methods that have an experiment."""

from tests.helpers.support import CONF, TINY

QUICK = [
    *TINY,
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "data.batch_size=16",
    "model.width=4",
    "callbacks.certification.max_images=1",
    "callbacks.certification.plot=null",
]


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "custom")
