/* The hostile workload of the test image. The body is one word:
 *   attempts  everything in attempts.c, and as many threads as it gets     hang   live until the deadline
 *   segv      touch memory that is not there                               x32    a call by the x32 numbers
 *   int80     a call by the 32-bit gate                                    short  announce more than is sent
 *   more      send something after the answer                              busy   compute until the deadline */
#define _GNU_SOURCE
#include "attempts.h"

#include <asm/unistd.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REQUEST = 3 };

static void *idle(void *unused)
{
    pause();
    return unused;
}

static size_t add_thread_count(char *report, size_t size)
{
    int count = 0;
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    while (count < 100000 && pthread_create(&thread, &small, idle, NULL) == 0)
        count++;
    return size - 1 + (size_t)sprintf(report + size - 1, ",\"threads\":%d}", count);
}

int main(int count, char **arguments)
{
    static char word[16], report[REPORT_CAPACITY];
    uint32_t length;
    volatile int *volatile nowhere = NULL;
    if (read(REQUEST, &length, 4) != 4 || ntohl(length) >= sizeof word || read(REQUEST, word, ntohl(length)) <= 0)
        return 1;
    if (!strcmp(word, "hang"))
        for (;;)
            pause();
    if (!strcmp(word, "busy"))
        for (;;)
            __asm__ volatile("pause");
    if (!strcmp(word, "segv"))
        *nowhere = 1;
    if (!strcmp(word, "x32"))
        syscall(0x40000000 | __NR_getpid);
    if (!strcmp(word, "int80"))
        __asm__ volatile("int $0x80" : : "a"(20) : "memory");
    if (!strcmp(word, "short"))
        return write(REQUEST, "\0\0\0\7[]", 6) != 6;
    if (!strcmp(word, "more"))
        return write(REQUEST, "\0\0\0\2[]more", 10) != 10;
    if (strcmp(word, "attempts"))
        return 1;
    size_t size = report_attempts("workload", count ? arguments[0] : "", report);
    send_report(REQUEST, report, add_thread_count(report, size));
    _exit(0);
}
