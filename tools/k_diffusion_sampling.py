"""k-diffusion's samplers without its training code, whose many dependencies are not needed here."""

import importlib.util
import sys
import types


def _load():
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    package.utils = utils
    return importlib.import_module("k_diffusion.sampling")


k_sampling = _load()
