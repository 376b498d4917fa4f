/* Compare the unpacked file system with its listing, the first entry of the initramfs.
 *
 * An initramfs that does not fit into memory is cut short without a word, so every line is written again from
 * what is found on the file system and compared byte by byte; nothing in the listing is trusted but the paths. */
#include "init.h"

enum { LINE_CAPACITY = 5120 };  /* PATH_MAX and the fields before it */
static unsigned long entries_found;

static int count_entry(const char *path, const struct stat *status, int type, struct FTW *position)
{
    (void)path, (void)status, (void)type;
    entries_found += position->level > 0;
    return 0;
}

static bool hash_entry(const char *path, const struct stat *status, char hex[65])
{
    struct sha256 hash;
    uint8_t digest[32];
    static char buffer[65536];
    ssize_t got = 0;
    sha256_start(&hash);
    if (S_ISLNK(status->st_mode) && (got = readlink(path, buffer, sizeof buffer)) > 0)
        sha256_add(&hash, buffer, (size_t)got);
    int file = S_ISLNK(status->st_mode) ? -1 : open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    while (file >= 0 && (got = read(file, buffer, sizeof buffer)) > 0)
        sha256_add(&hash, buffer, (size_t)got);
    close(file);
    sha256_finish(&hash, digest);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return got >= 0 && (file >= 0 || S_ISLNK(status->st_mode));
}

/* Write the line that `path` should have; its length, or 0 if there is no such entry. */
static size_t describe(const char *path, char line[LINE_CAPACITY])
{
    struct stat status;
    char hex[65] = "-", size[24];
    if (lstat(path, &status))
        return 0;
    mode_t kind = status.st_mode & S_IFMT;
    char type = kind == S_IFREG ? 'f' : kind == S_IFDIR ? 'd' : kind == S_IFCHR ? 'c' : kind == S_IFLNK ? 'l' : '?';
    if ((type == 'f' || type == 'l') && !hash_entry(path, &status, hex))
        return 0;
    if (type == 'c')
        snprintf(size, sizeof size, "%u:%u", major(status.st_rdev), minor(status.st_rdev));
    else
        snprintf(size, sizeof size, "%llu", type == 'd' ? 0ULL : (unsigned long long)status.st_size);
    return (size_t)snprintf(line, LINE_CAPACITY, "%c %07o %u %u %s %s %s\n", type, status.st_mode, status.st_uid,
                            status.st_gid, size, hex, path);
}

bool tree_matches(const char *listing, size_t size)
{
    char expected[LINE_CAPACITY], path[LINE_CAPACITY] = "";
    unsigned long lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += listing[i] == '\n';
    size_t length = (size_t)snprintf(expected, sizeof expected, "blindbuild-tree 1 %lu\n", lines - 1);
    if (!lines || size < length || memcmp(listing, expected, length))
        return false;
    for (const char *line = listing + length, *end; line < listing + size; line = end + 1) {
        end = memchr(line, '\n', (size_t)(listing + size - line));
        const char *space = end ? memrchr(line, ' ', (size_t)(end - line)) : NULL;
        if (!space || end - line >= LINE_CAPACITY - 1)
            return false;
        snprintf(path, sizeof path, "%.*s", (int)(end - space - 1), space + 1);
        length = describe(path, expected);
        if (length != (size_t)(end - line) + 1 || memcmp(line, expected, length))
            return false;
    }
    entries_found = 0;
    return !strcmp(path, "~blindbuild.end") && !nftw(".", count_entry, 16, FTW_PHYS) && entries_found == lines;
}

bool read_file(const char *path, char *buffer, size_t capacity, size_t *size)
{
    int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t got = 0;
    for (*size = 0; file >= 0 && (got = read(file, buffer + *size, capacity - *size)) > 0; )
        *size += (size_t)got;
    close(file);
    return file >= 0 && got == 0 && *size < capacity;
}
