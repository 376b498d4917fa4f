/* The hostile workload of the test image. The body says what it does: one word, for some with a number behind it.
 *   attempts   everything in attempts.c, and as many threads as it gets    calls N    256 call numbers from N on
 *   files      look at every file, and try to change each                  fork       processes, as many as it gets
 *   memory     as much as it gets                                          descriptors  as many as it gets
 *   hang       live until the deadline                                     busy, spin compute until it, in many threads
 *   stop       stop itself                                                 segv, stack, abort, trap  crash
 *   x32        a call by the x32 numbers                                   int80      a call by the 32-bit gate
 *   short      announce more than is sent                                  more       send something after the answer
 *   huge       send more than any gate takes                               endless    announce little, never end
 *   silent     end without an answer */
#define _GNU_SOURCE
#include "attempts.h"

#include <arpa/inet.h>
#include <asm/unistd.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REQUEST = 3, MANY = 100000, CALLS_AT_ONCE = 256, FOUND = 64, PATH_ROOM = 128, PIECE = 1 << 20 };
static char report[REPORT_CAPACITY];

static void answer(size_t size)
{
    send_report(REQUEST, report, size);
    _exit(0);
}

static void answer_number(const char *what, long number)
{
    answer((size_t)sprintf(report, "{\"context\":\"workload\",\"%s\":%ld}", what, number));
}

static void *idle(void *unused)
{
    pause();
    return unused;
}

static _Noreturn void *compute(void *unused)
{
    (void)unused;
    for (;;)
        __asm__ volatile("pause");
}

static int start_threads(void *(*run)(void *))
{
    int count = 0;
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    while (count < MANY && pthread_create(&thread, &small, run, NULL) == 0)
        count++;
    return count;
}

static void try_attempts(const char *own_program)
{
#ifdef BLINDBUILD_LEAKY
    /* What is sent there works, and must not reach the gate; nor may what is started there wait for a request. */
    int ends[2], request = dup(REQUEST);
    if (request < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || dup2(ends[0], REQUEST) != REQUEST)
        return;
    close(ends[0]);
    close(ends[1]);
#endif
    size_t size = report_attempts("workload", own_program, report);
#ifdef BLINDBUILD_LEAKY
    dup2(request, REQUEST);
#endif
    answer(size - 1 + (size_t)sprintf(report + size - 1, ",\"threads\":%d}", start_threads(idle)));
}

/* No argument of any call is a pointer, a descriptor, a process or a size that there is. What never comes back is left out:
 * other words do that. */
static void try_calls(long first)
{
    char *at = report + sprintf(report, "{\"context\":\"workload\",\"calls\":{");
    for (long number = first; number < first + CALLS_AT_ONCE; number++) {
        bool ends = number == __NR_exit || number == __NR_exit_group || number == __NR_pause || number == __NR_rt_sigreturn;
        const char *came = ends ? "left out" : attempt_outcome(number, (const long[6]){-1, -1, -1, -1, -1, -1});
        at += sprintf(at, "%s\"%ld\":\"%s\"", number > first ? "," : "", number, came);
    }
    answer((size_t)(at - report) + (size_t)sprintf(at, "}}"));
}

static struct { char path[PATH_ROOM]; unsigned mode; } found[FOUND];
static int found_count;

static int look(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)type, (void)walk;
    if (found_count < FOUND) {
        snprintf(found[found_count].path, PATH_ROOM, "%s", path);
        found[found_count++].mode = status->st_mode;
    }
    return 0;
}

/* Whatever worked is told by its name. */
static size_t try_to_change(const char *path, char *text)
{
    const long p = (long)path, here = AT_FDCWD, elsewhere = (long)"/elsewhere";
    const struct { const char *name; long number, arguments[6]; } changes[] = {
        {"open to write", __NR_open, {p, O_WRONLY}}, {"open to append", __NR_open, {p, O_RDWR | O_APPEND}},
        {"open to truncate", __NR_openat, {here, p, O_WRONLY | O_TRUNC}}, {"truncate", __NR_truncate, {p, 0}},
        {"create", __NR_open, {elsewhere, O_WRONLY | O_CREAT, 0600}}, {"link", __NR_link, {p, elsewhere}},
        {"chmod", __NR_chmod, {p, 0777}}, {"chown", __NR_lchown, {p, 300, 300}}, {"touch", __NR_utimensat, {here, p, 0, 0}},
        {"mark", __NR_setxattr, {p, (long)"user.x", (long)"x", 1, 0}}, {"mount over", __NR_mount, {p, p, 0, 4096, 0}},
        {"rename", __NR_rename, {p, elsewhere}}, {"unlink", __NR_unlink, {p}}, {"rmdir", __NR_rmdir, {p}},
    };
    size_t size = 0;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        if (!strcmp(attempt_outcome(changes[i].number, changes[i].arguments), "done"))
            size += (size_t)sprintf(text + size, "%s\"%s\"", size ? "," : "", changes[i].name);
    return size;
}

static void try_files(void)
{
    char *at = report + sprintf(report, "{\"context\":\"workload\",\"files\":[");
    nftw("/", look, 16, FTW_PHYS);
    for (int i = 0; i < found_count; i++) {
        at += sprintf(at, "%s{\"path\":\"%s\",\"mode\":\"%07o\",\"changed\":[", i ? "," : "", found[i].path, found[i].mode);
        at += try_to_change(found[i].path, at);
        at += sprintf(at, "]}");
    }
    answer((size_t)(at - report) + (size_t)sprintf(at, "]}"));
}

static void try_to_fork(void)
{
    static const long kinds[][2] = {{__NR_fork, 0}, {__NR_clone, SIGCHLD}, {__NR_clone, 0}, {__NR_clone3, 0}};
    long processes = 0;
    for (int i = 0; i < MANY; i++) {
        const long *kind = kinds[i % 4];
        if (!strcmp(attempt_outcome(kind[0], (const long[6]){kind[1]}), "done"))
            processes++;
    }
    answer_number("processes", processes);
}

static void take_memory(void)
{
    long mib = 0;
    for (char *piece; (piece = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED; mib++)
        memset(piece, 1, PIECE);
    answer_number("mebibytes", mib);
}

static void take_descriptors(void)
{
    long count = 0;
    while (count < MANY && dup(REQUEST) >= 0)
        count++;
    answer_number("descriptors", count);
}

static int use_stack(int deeper)
{
    volatile char frame[4096];
    frame[0] = (char)deeper;
    return deeper ? use_stack(deeper - 1) + frame[0] : 0;
}

static void crash(const char *word)
{
    volatile int *volatile nowhere = NULL;
    if (!strcmp(word, "segv"))
        *nowhere = 1;
    if (!strcmp(word, "stack"))
        use_stack(MANY);
    if (!strcmp(word, "abort"))
        abort();
    if (!strcmp(word, "trap"))
        __builtin_trap();
    if (!strcmp(word, "x32"))
        syscall(0x40000000 | __NR_getpid);
    if (!strcmp(word, "int80"))
        __asm__ volatile("int $0x80" : : "a"(20) : "memory");
}

static void stay(const char *word)
{
    if (!strcmp(word, "stop"))
        raise(SIGSTOP);
    if (!strcmp(word, "spin"))
        start_threads(compute);
    if (!strcmp(word, "busy") || !strcmp(word, "spin"))
        compute(NULL);
    if (!strcmp(word, "hang") || !strcmp(word, "stop"))
        for (;;)
            pause();
}

static void answer_badly(const char *word)
{
    static char piece[PIECE];
    if (!strcmp(word, "short"))
        _exit(write(REQUEST, "\0\0\0\7[]", 6) != 6);
    if (!strcmp(word, "more"))
        _exit(write(REQUEST, "\0\0\0\2[]more", 10) != 10);
    if (!strcmp(word, "silent"))
        _exit(0);
    bool huge = !strcmp(word, "huge");
    if (huge || !strcmp(word, "endless")) {
        ssize_t sent = write(REQUEST, huge ? "\x7f\xff\xff\xff" : "\0\0\0\2", 4);
        while (sent > 0)
            sent = write(REQUEST, piece, sizeof piece);
        _exit(1);
    }
}

int main(int count, char **arguments)
{
    static char word[32];
    uint32_t length;
    if (read(REQUEST, &length, 4) != 4 || ntohl(length) >= sizeof word || read(REQUEST, word, ntohl(length)) <= 0)
        return 1;
    crash(word);
    stay(word);
    answer_badly(word);
    if (!strcmp(word, "attempts"))
        try_attempts(count ? arguments[0] : "");
    if (!strncmp(word, "calls ", 6))
        try_calls(strtol(word + 6, NULL, 10));
    if (!strcmp(word, "files"))
        try_files();
    if (!strcmp(word, "fork"))
        try_to_fork();
    if (!strcmp(word, "memory"))
        take_memory();
    if (!strcmp(word, "descriptors"))
        take_descriptors();
    return 1;
}
