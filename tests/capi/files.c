#define _XOPEN_SOURCE 700 /* mkdtemp, nftw */

#include "files.h"
#include "check.h"
#include "support.h"
#include <dirent.h>
#include <ftw.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };

static void join(char *path, const char *folder, const char *name) {
    int n = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    CHECK(n > 0 && n < PATH_BYTES);
}

char *file_read(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *data = length < 0 ? NULL : malloc((size_t)length + 1);
    *size = 0;
    if (data != NULL) {
        *size = fread(data, 1, (size_t)length, file);
        data[*size] = '\0';
    }
    fclose(file);
    return data;
}

/* The first `from` in `size` bytes of data that may hold NULs. */
static char *find(char *data, size_t size, const char *from) {
    size_t length = strlen(from);
    for (size_t i = 0; i + length <= size; i++)
        if (memcmp(data + i, from, length) == 0) return data + i;
    return NULL;
}

/* Removes before it writes: the old file may be a hard link to the original model's. */
void file_write(const char *folder, const char *name, const void *data, size_t size) {
    char path[PATH_BYTES];
    join(path, folder, name);
    remove(path);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    if (file == NULL) return;
    CHECK(fwrite(data, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

static char *read_in(const char *folder, const char *name, size_t *size) {
    char path[PATH_BYTES];
    join(path, folder, name);
    char *data = file_read(path, size);
    CHECK(data != NULL);
    return data;
}

static bool copy_folder(const char *from, const char *to) {
    DIR *dir = opendir(from);
    if (dir == NULL) return false;
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(dir)) != NULL;) {
        char source[PATH_BYTES], target[PATH_BYTES];
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        join(source, from, entry->d_name);
        join(target, to, entry->d_name);
        if (stat(source, &info) != 0) {
            ok = false;
        } else if (S_ISDIR(info.st_mode)) {
            ok = mkdir(target, 0755) == 0 && copy_folder(source, target);
        } else if (link(source, target) != 0) { /* another file system: copy */
            size_t size;
            char *data = file_read(source, &size);
            ok = data != NULL;
            if (ok) file_write(to, entry->d_name, data, size);
            free(data);
        }
    }
    closedir(dir);
    return ok;
}

char *folder_of_model(void) {
    const char *temporary = getenv("TMPDIR");
    char *folder = malloc(PATH_BYTES);
    if (folder == NULL) return NULL;
    join(folder, temporary != NULL ? temporary : "/tmp", "diffusion-test-XXXXXX");
    if (mkdtemp(folder) != NULL) {
        if (copy_folder(model_path(), folder)) return folder;
        folder_remove(folder);
        folder = NULL;
    }
    free(folder);
    CHECK(!"a copy of the model in a temporary folder");
    return NULL;
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *walk) {
    (void)info, (void)flag, (void)walk;
    return remove(path);
}

void folder_remove(char *folder) {
    if (folder != NULL) CHECK(nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS) == 0);
    free(folder);
}

void file_remove(const char *folder, const char *name) {
    char path[PATH_BYTES];
    join(path, folder, name);
    CHECK(remove(path) == 0);
}

void file_write_text(const char *folder, const char *name, const char *text) {
    file_write(folder, name, text, strlen(text));
}

void file_truncate(const char *folder, const char *name, size_t size) {
    size_t old;
    char *data = read_in(folder, name, &old);
    CHECK(size < old);
    if (data != NULL) file_write(folder, name, data, size);
    free(data);
}

void file_patch(const char *folder, const char *name, size_t offset, const void *bytes, size_t count) {
    size_t size;
    char *data = read_in(folder, name, &size);
    CHECK(offset + count <= size);
    if (data != NULL && offset + count <= size) {
        memcpy(data + offset, bytes, count);
        file_write(folder, name, data, size);
    }
    free(data);
}

/* `data` with the first `from` replaced, `*size` mended; takes `data`, gives a new block. */
static char *replaced(char *data, size_t *size, const char *from, const char *to) {
    char *at = find(data, *size, from);
    if (at == NULL) check_failed(__FILE__, __LINE__, "'%s' is not in the file", from);
    char *out = at == NULL ? NULL : malloc(*size + strlen(to) + 1);
    if (out != NULL) {
        size_t before = (size_t)(at - data), after = *size - before - strlen(from);
        memcpy(out, data, before);
        memcpy(out + before, to, strlen(to));
        memcpy(out + before + strlen(to), at + strlen(from), after);
        *size = before + strlen(to) + after;
    }
    free(data);
    return out;
}

void file_replace(const char *folder, const char *name, const char *from, const char *to) {
    size_t size;
    char *data = read_in(folder, name, &size);
    if (data != NULL) data = replaced(data, &size, from, to);
    if (data != NULL) file_write(folder, name, data, size);
    free(data);
}

static size_t header_length(const char *data) {
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | (unsigned char)data[i];
    return (size_t)length;
}

void tensors_edit(const char *folder, const char *name, const char *from, const char *to, size_t cut, size_t grow) {
    size_t size;
    char *data = read_in(folder, name, &size);
    if (data == NULL) return;
    size_t header = header_length(data), old_size = size;
    data = replaced(data, &size, from, to);
    if (data == NULL) return;
    header = header + size - old_size;
    for (int i = 0; i < 8; i++) data[i] = (char)(unsigned char)(((uint64_t)header >> (8 * i)) & 0xff);
    char *grown = calloc(1, size - cut + grow);
    CHECK(grown != NULL);
    if (grown != NULL) {
        memcpy(grown, data, size - cut);
        file_write(folder, name, grown, size - cut + grow);
    }
    free(grown);
    free(data);
}

size_t tensors_data_offset(const char *folder, const char *name) {
    size_t size;
    char *data = read_in(folder, name, &size);
    size_t offset = data == NULL ? 0 : 8 + header_length(data);
    free(data);
    return offset;
}
