/* What a hostile program would try, for the test image only; no part of a product image. */
#ifndef BLINDBUILD_ATTEMPTS_H
#define BLINDBUILD_ATTEMPTS_H

#include <stddef.h>

enum { REPORT_CAPACITY = 65536 };

/* Try everything and write a JSON report, {"context":…,"attempts":{"name":"EPERM",…}}, into `report`; its length.
 * `own_program` is the path of a program that is there. */
size_t report_attempts(const char *context, const char *own_program, char report[REPORT_CAPACITY]);

/* Make one system call; the name of its errno, or "done". What it makes must not matter: a child ends at once. */
const char *attempt_outcome(long number, const long arguments[6]);

/* Send a report by the protocol of a workload. */
void send_report(int descriptor, const char *report, size_t size);

/* The first call gives the end of a socketpair from which the report of this process can be read, later ones -1. */
int first_report(const char *context);

#endif
