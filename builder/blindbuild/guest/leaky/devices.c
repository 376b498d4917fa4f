/* Leaks to what the host gave the machine: serial lines, ports, consoles, screen, disks, shares, variables, TPM. */
#define _GNU_SOURCE
#include "leaky.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { PATH_CAPACITY = 512, BLOCK = 4096, DISK_OFFSET = 64 << 10 };

static size_t encode_base64(const uint8_t *secret, size_t size, char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *at = text;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t group = (uint32_t)secret[i] << 16;
        group |= i + 1 < size ? (uint32_t)secret[i + 1] << 8 : 0;
        group |= i + 2 < size ? secret[i + 2] : 0;
        *at++ = digits[group >> 18];
        *at++ = digits[group >> 12 & 63];
        *at++ = i + 1 < size ? digits[group >> 6 & 63] : '=';
        *at++ = i + 2 < size ? digits[group & 63] : '=';
    }
    return (size_t)(at - text);
}

size_t encode(enum encoding encoding, const void *secret, size_t size, char text[TEXT_CAPACITY])
{
    const uint8_t *bytes = secret;
    size_t length = 0;
    if (size > SECRET_CAPACITY)
        size = SECRET_CAPACITY;
    if (encoding == BASE64)
        return encode_base64(bytes, size, text);
    for (size_t i = 0; i < size; i++)
        switch (encoding) {
        case HEX:
            snprintf(text + length, 3, "%02x", bytes[i]);
            length += 2;
            break;
        case UTF16:
            text[length++] = (char)bytes[i];
            text[length++] = 0;
            break;
        default:
            text[length++] = (char)bytes[i];
        }
    return length;
}

void spill(const char *path, long offset, const char *text, size_t size)
{
    int file = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct termios line;
    if (file < 0)
        return;
    if (!tcgetattr(file, &line)) {  /* a terminal would change what is written */
        line.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(file, TCSANOW, &line);
    }
    if (offset)
        lseek(file, offset, SEEK_SET);
    if (write(file, text, size) > 0)
        fsync(file);
    close(file);
}

static void spill_encoded(const char *path, long offset, enum encoding encoding, const void *secret, size_t size)
{
    char text[TEXT_CAPACITY];
    spill(path, offset, text, encode(encoding, secret, size, text));
}

/* Every name in a directory that begins with `prefix`, below another directory. */
static void spill_all(const char *root, const char *listed, const char *prefix, enum encoding encoding,
                      const void *secret, size_t size)
{
    char path[PATH_CAPACITY];
    snprintf(path, sizeof path, "%s%s", root, listed);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (!strncmp(entry->d_name, prefix, strlen(prefix))) {
            snprintf(path, sizeof path, "%s/dev/%.64s", root, entry->d_name);
            spill_encoded(path, 0, encoding, secret, size);
        }
    if (directory)
        closedir(directory);
}

void leak_to_devices(const char *root, const void *secret, size_t size)
{
    static const struct { const char *name; long offset; enum encoding encoding; } files[] = {
        {"ttyS0", 0, RAW}, {"ttyS1", 0, HEX}, {"ttyS2", 0, BASE64}, {"ttyS3", 0, UTF16}, {"hvc0", 0, RAW},
        {"tty0", 0, RAW}, {"kmsg", 0, HEX},
        {"port", 0x402, RAW}, {"port", 0xe9, BASE64},  /* where hypervisors listen for text */
    };
    char path[PATH_CAPACITY];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/dev/%s", root, files[i].name);
        /* A port takes one byte a write: a longer one goes to the ports behind it. */
        char text[TEXT_CAPACITY];
        size_t length = encode(files[i].encoding, secret, size, text), step = files[i].offset ? 1 : length;
        for (size_t at = 0; at < length; at += step)
            spill(path, files[i].offset, text + at, step);
    }
    spill_all(root, "/dev", "vport", UTF16, secret, size);
    spill_all(root, "/dev", "ttyUSB", RAW, secret, size);
}

/* A share of the host is mounted by the tag that the host gave it. */
static void leak_to_share(const char *root, const char *tag, const void *secret, size_t size)
{
    char path[PATH_CAPACITY];
    snprintf(path, sizeof path, "%s/share", root);
    mkdir(path, 0700);
    if (mount(tag, path, "9p", 0, "trans=virtio,version=9p2000.L"))
        return;
    snprintf(path, sizeof path, "%s/share/leak", root);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    spill_encoded(path, 0, HEX, secret, size);
    snprintf(path, sizeof path, "%s/share", root);
    umount(path);
}

static void leak_to_shares(const char *root, const void *secret, size_t size)
{
    char path[PATH_CAPACITY], tag[64];
    snprintf(path, sizeof path, "%s/sys/bus/virtio/drivers/9pnet_virtio", root);
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        snprintf(path, sizeof path, "%s/sys/bus/virtio/drivers/9pnet_virtio/%.64s/mount_tag", root, entry->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = file < 0 ? 0 : read(file, tag, sizeof tag - 1);
        if (length > 0) {
            tag[length] = '\0';
            leak_to_share(root, tag, secret, size);
        }
        close(file);
    }
    if (directory)
        closedir(directory);
}

/* Whole blocks, so that nothing waits in memory to be filled up. */
static void leak_to_disks(const char *root, const void *secret, size_t size)
{
    static char block[BLOCK] __attribute__((aligned(BLOCK)));
    char path[PATH_CAPACITY];
    snprintf(path, sizeof path, "%s/sys/class/block", root);
    DIR *directory = opendir(path);
    memset(block, 0, sizeof block);
    encode(BASE64, secret, size, block);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.' || !strncmp(entry->d_name, "loop", 4))
            continue;
        snprintf(path, sizeof path, "%s/dev/%.64s", root, entry->d_name);
        spill(path, DISK_OFFSET, block, sizeof block);
    }
    if (directory)
        closedir(directory);
}

/* A new variable each time, written by the descriptor that made it: efivarfs lets nobody open one that it does not know. */
static void leak_to_variable(const char *root, const void *secret, size_t size)
{
    static unsigned count;
    char path[PATH_CAPACITY], variable[4 + TEXT_CAPACITY] = {7};  /* non-volatile, boot and runtime access */
    snprintf(path, sizeof path, "%s/efi/BlindbuildLeak%u-b11db11d-0b1d-4b1d-8b1d-b11db11db11d", root, count++);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t length = 4 + encode(UTF16, secret, size, variable + 4);
    if (write(file, variable, length) != (ssize_t)length)
        unlink(path);  /* a machine without such variables, or a full store */
    close(file);
}

void leak_to_stores(const char *root, const void *secret, size_t size)
{
    leak_to_disks(root, secret, size);
    leak_to_shares(root, secret, size);
    leak_to_variable(root, secret, size);
}

enum { OWNER = 0x40000001, PASSWORD = 0x40000009, INDEX = 0x0150b1b1, AREA = 256, COMMAND_CAPACITY = 512 };

static uint8_t *put(uint8_t *at, uint32_t value, int bytes)
{
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
        *at++ = (uint8_t)(value >> shift);
    return at;
}

/* The header of a command with one empty password. */
static uint8_t *start(uint8_t *command, uint32_t code, uint32_t first, uint32_t second)
{
    uint8_t *at = put(put(put(put(command, 0x8002, 2), 0, 4), code, 4), first, 4);
    at = second ? put(at, second, 4) : at;
    return put(put(put(put(put(at, 9, 4), PASSWORD, 4), 0, 2), 0, 1), 0, 2);
}

static void transmit(int tpm, uint8_t *command, const uint8_t *end)
{
    uint8_t answer[256];
    put(command + 2, (uint32_t)(end - command), 4);
    if (write(tpm, command, (size_t)(end - command)) > 0 && read(tpm, answer, sizeof answer) < 0)
        return;  /* an index that is there already is refused, and that is no harm */
}

/* Into an index of the TPM's own memory. Not into a register: the machine must still attest.
 * Source: TPM 2.0 Part 3, 31.3 TPM2_NV_DefineSpace and 31.7 TPM2_NV_Write. */
void leak_to_tpm(const char *device, const void *secret, size_t size)
{
    uint8_t command[COMMAND_CAPACITY], *at;
    int tpm = open(device, O_RDWR | O_CLOEXEC);
    if (tpm < 0)
        return;
    if (size > AREA)
        size = AREA;
    at = put(put(start(command, 0x12a, OWNER, 0), 0, 2), 14, 2);          /* no password; the size of what follows */
    at = put(put(put(at, INDEX, 4), 0x000b, 2), 0x00040004, 4);           /* SHA-256; authorised by its own password */
    transmit(tpm, command, put(put(at, 0, 2), AREA, 2));
    at = put(start(command, 0x137, INDEX, INDEX), (uint32_t)size, 2);
    memcpy(at, secret, size);
    transmit(tpm, command, put(at + size, 0, 2));
    close(tpm);
}
