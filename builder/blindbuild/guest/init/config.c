/* Read init.conf. What was read is written out again and compared: no other spelling of a number, no other order and
 * no other white space gets through. */
#include "init.h"

#define NETWORK "network static %hhu.%hhu.%hhu.%hhu %hhu %hhu.%hhu.%hhu.%hhu\n"
#define SETTINGS "port %lu\nmemory %lu\nseconds %lu\nconcurrency %lu\n"

bool lease_is_sane(const struct lease *lease)
{
    uint32_t host_bits = ~ntohl(lease->mask);
    uint8_t network = (uint8_t)lease->address, gateway = (uint8_t)lease->router;  /* first bytes */
    bool unicast = network && network != 127 && network < 224 && gateway != 127 && gateway < 224
                && (gateway || !lease->router);
    return unicast && lease->address != lease->router && lease->mask && (host_bits & (host_bits + 1)) == 0;
}

/* The lines before the arguments; returns their end, or NULL. */
static char *parse_settings(struct config *config, char *text)
{
    char again[256] = "blindbuild-init 1\nnetwork dhcp\n";
    uint8_t a[4] = {0}, r[4] = {0}, prefix = 0;
    size_t size = strlen(again);
    config->dhcp = !strncmp(text, again, size);
    if (!config->dhcp) {
        sscanf(text, "blindbuild-init 1\n" NETWORK, a, a + 1, a + 2, a + 3, &prefix, r, r + 1, r + 2, r + 3);
        size = (size_t)sprintf(again, "blindbuild-init 1\n" NETWORK, a[0], a[1], a[2], a[3], prefix,
                               r[0], r[1], r[2], r[3]);
        memcpy(&config->lease.address, a, 4);
        memcpy(&config->lease.router, r, 4);
        config->lease.mask = prefix && prefix <= 32 ? htonl(UINT32_MAX << (32 - prefix)) : 0;
    }
    if (strncmp(text, again, size) || (!config->dhcp && !(config->lease.router && lease_is_sane(&config->lease))))
        return NULL;
    sscanf(text + size, SETTINGS, &config->port, &config->memory, &config->seconds, &config->concurrency);
    sprintf(again, SETTINGS, config->port, config->memory, config->seconds, config->concurrency);
    bool good = config->port - 1 < 65535 && config->memory >= 1 << 20 && config->memory <= 1UL << 46
             && config->seconds - 1 < 86400 && config->concurrency - 1 < SLOTS;  /* unsigned: 0 is large */
    return good && !strncmp(text + size, again, strlen(again)) ? text + size + strlen(again) : NULL;
}

bool parse_config(struct config *config, const char *text, size_t size)
{
    *config = (struct config){.dhcp = false};
    if (size >= sizeof config->text)
        return false;
    memcpy(config->text, text, size);
    char *at = parse_settings(config, config->text);
    for (int count = 0; at && !strncmp(at, "arg ", 4) && count < ARGUMENTS; count++) {
        config->arguments[count] = at += 4;
        while (*at >= ' ' && *at <= '~')
            at++;
        if (*at != '\n' || at == config->arguments[count])
            return false;
        *at++ = '\0';
    }
    return at && config->arguments[0] && config->arguments[0][0] == '/' && !strcmp(at, "end\n")
        && at + 4 == config->text + size;
}
