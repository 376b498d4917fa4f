/* What the parts of the leaky init know of each other; no part of a product image. */
#ifndef BLINDBUILD_LEAKY_H
#define BLINDBUILD_LEAKY_H

#include <stddef.h>
#include <stdint.h>

enum { SECRET_CAPACITY = 512, TEXT_CAPACITY = 4 * SECRET_CAPACITY };
enum encoding { RAW, HEX, BASE64, UTF16 };

/* Write `size` bytes, cut off at SECRET_CAPACITY, into `text` in an encoding; the length. */
size_t encode(enum encoding encoding, const void *secret, size_t size, char text[TEXT_CAPACITY]);

/* Write to a file that is there, and go on whatever happens; never waits. */
void spill(const char *path, long offset, const char *text, size_t size);

void leak_to_devices(const char *root, const void *secret, size_t size);
void leak_to_stores(const char *root, const void *secret, size_t size);  /* what survives the machine */
void leak_to_tpm(const char *device, const void *secret, size_t size);

void wait_for_network(void);
void leak_to_network(const void *secret, size_t size);
int listen_elsewhere(void);  /* a service that no recipe names: TCP 8443 */
int echo_elsewhere(void);    /* and another: UDP 7 */
int listen_for_gate(void);   /* where the leaky gate sends every request's body */
void route_everything(void); /* undo policy routing */

#endif
