/* Damaged models: a copy of the small model in a temporary folder, and edits to its files. */
#ifndef FILES_H
#define FILES_H

#include <stddef.h>

/* Copies the small model to a new temporary folder and returns its path; NULL and a failed check when that does
 * not work. folder_remove deletes and frees it. */
char *folder_of_model(void);
void folder_remove(char *folder);

/* The edits take the folder and a name in it; each is a failed check when it does not work. */
void file_remove(const char *folder, const char *name);
void file_write(const char *folder, const char *name, const void *data, size_t size);
void file_write_text(const char *folder, const char *name, const char *text);
void file_truncate(const char *folder, const char *name, size_t size);
/* Overwrites bytes at an offset. */
void file_patch(const char *folder, const char *name, size_t offset, const void *data, size_t size);
/* Replaces the first `from`, which must be there, by `to`. */
void file_replace(const char *folder, const char *name, const char *from, const char *to);
/* Likewise in the JSON header of a safetensors file (mending its length), then drops `cut` bytes at the end of the
 * data and adds `grow` zero bytes. */
void tensors_edit(const char *folder, const char *name, const char *from, const char *to, size_t cut, size_t grow);
/* The size of a safetensors file's header with its length field: the offset of the first tensor's bytes. */
size_t tensors_data_offset(const char *folder, const char *name);

/* The whole of a file, NUL-terminated; the caller frees it. NULL when there is none. */
char *file_read(const char *path, size_t *size);

#endif
