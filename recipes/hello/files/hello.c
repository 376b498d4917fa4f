/* Greets whoever asks: the smallest workload that keeps the contract of docs/spec/guest-abi.md.
 *
 * The body is a name, or {"name":"…"}. A name in JSON is checked and copied with its escapes, never decoded. */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REQUEST = 3, BODY_LIMIT = 4096, NAME_LIMIT = 64 };

static bool read_all(void *data, size_t size)
{
    for (ssize_t got; size; data = (char *)data + got, size -= (size_t)got)
        if ((got = read(REQUEST, data, size)) <= 0)
            return false;
    return true;
}

/* Bytes of the well-formed UTF-8 sequence at `at`, or 0. Source: RFC 3629, section 4. */
static size_t sequence(const uint8_t *at, const uint8_t *end)
{
    size_t size = *at < 0x80 ? 1 : *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
    if (size == 0 || (size_t)(end - at) < size)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xf0 && at[1] < 0x90);
    bool outside = (*at == 0xed && at[1] > 0x9f) || (*at == 0xf4 && at[1] > 0x8f);
    return overlong || outside ? 0 : size;
}

/* Bytes of the escape at `at`, or 0. Source: RFC 8259, section 7. */
static size_t escape(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 2 || at[1] == '\0' || !strchr("\"\\/bfnrtu", at[1]))
        return 0;
    if (at[1] != 'u')
        return 2;
    for (int i = 2; i < 6; i++)
        if (end - at < 6 || at[i] == '\0' || !strchr("0123456789abcdefABCDEF", at[i]))
            return 0;
    return 6;
}

/* Write `text` as the inside of a JSON string; false if it is no such text. */
static bool quote(const uint8_t *text, const uint8_t *end, bool json, char *out)
{
    for (size_t size; text < end; text += size) {
        bool special = *text < 0x20 || *text == '"' || *text == '\\';
        size = json && *text == '\\' ? escape(text, end) : json && special ? 0 : sequence(text, end);
        if (size == 0)
            return false;
        if (!json && special)
            out += sprintf(out, "\\u%04x", (unsigned)*text);
        else
            out = (char *)memcpy(out, text, size) + size;
    }
    *out = '\0';
    return true;
}

static const char *greet(const uint8_t *body, size_t size, char *answer)
{
    static const char plain[] = "{\"name\":\"", spaced[] = "{\"name\": \"", after[] = "\"}";
    const char *before = size > 8 && body[8] == ' ' ? spaced : plain;
    const size_t head = strlen(before), tail = sizeof after - 1;
    char name[6 * NAME_LIMIT + 1];
    bool json = size > 0 && *body == '{';
    const uint8_t *start = json ? body + head : body, *end = json ? body + size - tail : body + size;
    if (json && (size < head + tail || memcmp(body, before, head) || memcmp(end, after, tail)))
        return "expected a name or {\\\"name\\\":\\\"...\\\"}";
    if (end - start < 1 || end - start > NAME_LIMIT)
        return "expected a name of 1 to 64 bytes";
    if (!quote(start, end, json, name))
        return "expected a name in UTF-8";
    sprintf(answer, "{\"greeting\":\"hello, %s\",\"bytes\":%zu}", name, size);
    return NULL;
}

int main(void)
{
    static uint8_t body[BODY_LIMIT];
    char message[4 + 1024];
    uint32_t length;
    if (!read_all(&length, 4))
        return 1;
    size_t size = ntohl(length);
    if (size > sizeof body || !read_all(body, size))
        return 1;
    const char *problem = greet(body, size, message + 4);
    if (problem)
        sprintf(message + 4, "{\"error\":\"%s\"}", problem);
    uint32_t answered = (uint32_t)strlen(message + 4);
    length = htonl(answered);
    memcpy(message, &length, 4);
    return write(REQUEST, message, 4 + answered) != (ssize_t)(4 + answered);
}
