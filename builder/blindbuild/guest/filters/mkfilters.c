/* Write every filter into a file of its name in the working directory: an array of struct sock_filter. */
#include "filters.h"

#include <stdio.h>

int main(void)
{
    static struct sock_filter code[4096];
    for (const struct filter *filter = FILTERS; filter->name; filter++) {
        FILE *file = fopen(filter->name, "wb");
        size_t length = compile_filter(filter, code);
        if (!file || length > PROGRAM_CAPACITY || fwrite(code, sizeof *code, length, file) != length || fclose(file))
            return 1;
    }
    return 0;
}
