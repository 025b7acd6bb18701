"""The header as a foreign-function interface sees it: cffi parses it, finds the sizes a C compiler gives, and calls in.

usage: parse.py PREPROCESSED_HEADER LIBRARY
"""

import sys

import cffi

source = open(sys.argv[1]).read()
ffi = cffi.FFI()
ffi.cdef(source)
library = ffi.dlopen(sys.argv[2])

version = library.diffusion_version()
text = ffi.string(library.diffusion_version_string()).decode()
major, minor, patch = (int(part) for part in text.split("."))
assert version == major * 1000000 + minor * 1000 + patch, (version, text)

# Enumerations arrive by name, sizes as layout.c has them.
assert library.DIFFUSION_OPTION_PROMPT == 1 and library.DIFFUSION_ERROR_NUMERIC == -16
assert ffi.sizeof("diffusion_engine_desc") == 72 and ffi.sizeof("diffusion_result") == 80

# A call through a structure, and one that fails with an error object.
info = ffi.new("diffusion_option_info *", {"struct_size": ffi.sizeof("diffusion_option_info")})
assert library.diffusion_option_get_info(0, info, ffi.NULL) == 0
assert ffi.string(info.name) == b"prompt"
error = ffi.new("diffusion_error **")
model = ffi.new("diffusion_model **")
status = library.diffusion_model_load(ffi.NULL, b"no/such/folder", ffi.NULL, model, error)
assert status == library.DIFFUSION_ERROR_INVALID_ARGUMENT and model[0] == ffi.NULL
assert ffi.string(library.diffusion_error_message(error[0]))
library.diffusion_error_free(error[0])
print(f"ok     cffi parses the header and calls version {text}")
