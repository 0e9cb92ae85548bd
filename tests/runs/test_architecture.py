"""A head is described by what builds it, and nothing else is."""

import pytest

from tlearn.errors import CheckpointError
from tlearn.runs.architecture import described_head


def test_a_head_is_described_by_what_builds_it():
    config = {"_target_": "tlearn.models.heads.mlp", "_partial_": True, "hidden": [4], "dropout": 0.1}
    assert described_head(config) == {"_target_": "tlearn.models.heads.mlp", "hidden": [4], "dropout": 0.1}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", "damaged or hostile"),
        ("subprocess.run", "damaged or hostile"),
        ("torch.hub.load", "of libraries, only"),
        ("torch.nn.functional.torch.hub.load", "must be annotated to return"),
        ("torch.nn.init.xavier_uniform_", "must be annotated"),
        ("torchmetrics.Accuracy", "of libraries, only"),
        ("tlearn.models.heads.Sequential", "cannot be imported"),
        ("tlearn.models.heads.require", "must be annotated"),
        ("tlearn.download.fetch", "of libraries, only"),
        ("no_such_package.heads.Cosine", "start from the folder that holds it"),
        ("linear", "start from the folder that holds it"),
    ],
)
def test_what_is_no_head_cannot_be_described(target, reason):
    with pytest.raises(CheckpointError, match=reason):
        described_head({"_target_": target})
