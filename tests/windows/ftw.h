/* POSIX's nftw on Windows, as far as the C harness needs it, which is to remove a folder: `visit` is called for each file
 * in it and has to remove it, and then the folder is removed here. */
#ifndef FTW_H
#define FTW_H

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct FTW {
    int base, level;
};
enum { FTW_DEPTH = 1, FTW_PHYS = 2 };

static int nftw(const char *path, int (*visit)(const char *, const struct stat *, int, struct FTW *), int files, int flags) {
    struct stat info;
    struct FTW walk = {0, 0};
    if (stat(path, &info) != 0) return -1;
    DIR *dir = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        char inner[1024];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (nftw(inner, visit, files, flags) != 0) break;
    }
    if (dir == NULL) return visit(path, &info, 0, &walk);
    closedir(dir);
    return _rmdir(path);
}

#endif
