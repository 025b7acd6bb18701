/* What the C harness takes from POSIX and mingw-w64 lacks. Included before everything else: gcc -include. */
#ifndef POSIX_H
#define POSIX_H

#include <direct.h>
#include <io.h>
#include <stdio.h>
#include <stdlib.h>

#define mkdir(path, mode) _mkdir(path)
#define link(from, to) (-1) /* copied instead */
#define setenv(name, value, overwrite) ((void)(overwrite), _putenv_s(name, value))
#define unsetenv(name) _putenv_s(name, "")
#define mkdtemp(name) (_mktemp(name) != NULL && _mkdir(name) == 0 ? (name) : NULL)

#endif
