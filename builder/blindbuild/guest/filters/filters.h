/* A filter as tables of rules, and the program that it becomes. */
#pragma once

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

struct condition { enum { ALWAYS, IS, HAS_ANY } test; uint8_t argument; uint64_t value; };
struct rule { uint32_t number, action; struct condition when[2]; };
/* Two tables of rules, one after the other; the first rule that fits decides. */
struct filter { const char *name; const struct rule *rules[2]; uint32_t otherwise; };

extern const struct filter FILTERS[];  /* ends with an entry without a name */
enum { PROGRAM_CAPACITY = 1023 };  /* as many instructions as init has room for */
size_t compile_filter(const struct filter *filter, struct sock_filter *code);
