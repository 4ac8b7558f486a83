"""What `peak doctor` has other Pythons run, each of which prints JSON: see `programs.probe`."""

TORCH_PROBE = """
import json, warnings
import torch
from peak_nerf.system.waiting import hindrance
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "threads": torch.get_num_threads(),
    "waiting_left_alone": hindrance(),
    "hub": torch.hub.get_dir(),
    "cuda": cuda,
    "cuda_version": torch.version.cuda or torch.version.hip,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "cuda_warning": str(caught[0].message) if caught else "",
}))
"""
NUMBA_PROBE = "import json, numba; print(json.dumps({'version': numba.__version__}))"
PYCOLMAP_PROBE = "import json, pycolmap; print(json.dumps({'version': pycolmap.__version__}))"
TRITON_PROBE = "import json; from peak_nerf.system.accelerator import state; print(json.dumps(state()))"
TCNN_PROBE = "import json, tinycudann; print(json.dumps({}))"
