"""Preloaded by a Dask worker that is to behave as on a machine with other files and versions."""

import os
from unittest.mock import Mock

from mnv4_deploy.drift import environment
from mnv4_deploy.drift.cluster import worker as cluster_worker

if "blind" in os.environ["MNV4_TEST_MACHINE"]:
    cluster_worker._is_here = Mock(return_value=False)
    cluster_worker._size = Mock(return_value=-2)
if "old" in os.environ["MNV4_TEST_MACHINE"]:
    environment._version = Mock(return_value="0.0.1")
