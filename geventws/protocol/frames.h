/* Masks, UTF-8 and frame headers, for the compiled frame reader and the compiled transport. */
#ifndef GEVENTWS_FRAMES_H
#define GEVENTWS_FRAMES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ------------------------------------------------------------------ masks, RFC 6455 section 5.3 */

#define HIGH_BITS 0x8080808080808080u

/* Eight bytes at a time, at any alignment. `seen` gets the high bits of bytes that are not ASCII.
   If `seen` is not used, the compiler removes it. */
#define XOR_WORDS(out, in, size, mask, seen)                         \
    do {                                                             \
        uint64_t word, key = (uint64_t)(mask) << 32 | (mask);        \
        size_t i = 0;                                                \
        for (; i + 8 <= (size); i += 8) {                            \
            memcpy(&word, (in) + i, 8);                              \
            word ^= key;                                             \
            seen |= word;                                            \
            memcpy((out) + i, &word, 8);                             \
        }                                                            \
        for (; i < (size); i++)                                      \
            seen |= (out)[i] = (in)[i] ^ ((const uint8_t *)&key)[i & 7]; \
    } while (0)

/* The mask that goes on after `size` bytes. */
static inline uint32_t turn_mask(uint32_t mask, size_t size)
{
    uint8_t bytes[4], turned[4];
    int i;
    memcpy(bytes, &mask, 4);
    for (i = 0; i < 4; i++)
        turned[i] = bytes[(i + size) & 3];
    memcpy(&mask, turned, 4);
    return mask;
}

/* The same for 16 bytes or more, vectors at multiples of 16: those that cross cache lines are
   written half as fast. */
#define XOR_ALIGNED(out, in, size, mask, seen)                       \
    do {                                                             \
        size_t first = (0 - (uintptr_t)(out)) & 15;                  \
        XOR_WORDS(out, in, first, mask, seen);                       \
        mask = turn_mask(mask, first);                               \
        XOR_WORDS(out + first, in + first, size - first, mask, seen); \
    } while (0)

/* Vector loops for long data. Where supported, two versions of each, chosen at load time. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) \
    && !defined(__SANITIZE_ADDRESS__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

VECTORS static void xor_long(uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    XOR_ALIGNED(out, in, size, mask, seen);
}

VECTORS static uint64_t xor_long_seen(
    uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    XOR_ALIGNED(out, in, size, mask, seen);
    return seen;
}

/* `out` may be equal to `in`. The mask has its four bytes in the order of memory. */
static inline void apply_mask_to(uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    if (size < 64)
        XOR_WORDS(out, in, size, mask, seen);
    else
        xor_long(out, in, size, mask);
}

/* The same, and whether all of it is ASCII: one pass instead of two. */
static inline int apply_mask_to_ascii(
    uint8_t *out, const uint8_t *in, size_t size, uint32_t mask)
{
    uint64_t seen = 0;
    if (size < 64)
        XOR_WORDS(out, in, size, mask, seen);
    else
        seen = xor_long_seen(out, in, size, mask);
    return !(seen & HIGH_BITS);
}

/* ---------------------------------------------------------------------- UTF-8, RFC 3629 section 4 */

/* The state of a text: the missing bytes of its last character, and the range of the next byte. */
typedef struct {
    uint8_t lacking, least, most;
} utf8_state;

/* Take in the next piece of a text; false as soon as it cannot become UTF-8 any more. */
static int utf8_take(utf8_state *state, const uint8_t *text, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint8_t byte;
        if (!state->lacking) {
            uint64_t word;
            for (; i + 8 <= size; i += 8) {
                memcpy(&word, text + i, 8);
                if (word & HIGH_BITS)
                    break;
            }
            if (i == size)
                break;
        }
        byte = text[i++];
        if (state->lacking) {
            if (byte < state->least || byte > state->most)
                return 0;
            state->lacking--;
            state->least = 0x80;
            state->most = 0xBF;
        } else if (byte >= 0x80) {
            state->least = 0x80;
            state->most = 0xBF;
            if (byte < 0xC2 || byte > 0xF4)
                return 0;
            if (byte < 0xE0)
                state->lacking = 1;
            else if (byte < 0xF0) {
                state->lacking = 2;
                if (byte == 0xE0)
                    state->least = 0xA0;  /* shorter forms exist */
                else if (byte == 0xED)
                    state->most = 0x9F;  /* surrogates */
            } else {
                state->lacking = 3;
                if (byte == 0xF0)
                    state->least = 0x90;  /* shorter forms exist */
                else if (byte == 0xF4)
                    state->most = 0x8F;  /* beyond U+10FFFF */
            }
        }
    }
    return 1;
}

/* --------------------------------------------------------- frame headers, RFC 6455 section 5.2 */

#define MAX_HEAD 10

/* Write the head of an unmasked frame; returns its size. */
static inline int put_head(uint8_t *out, int first, uint64_t size)
{
    int i;
    out[0] = (uint8_t)first;
    if (size < 126) {
        out[1] = (uint8_t)size;
        return 2;
    }
    if (size < 65536) {
        out[1] = 126;
        out[2] = (uint8_t)(size >> 8);
        out[3] = (uint8_t)size;
        return 4;
    }
    out[1] = 127;
    for (i = 0; i < 8; i++)
        out[2 + i] = (uint8_t)(size >> (56 - 8 * i));
    return MAX_HEAD;
}

static inline uint64_t get_number(const uint8_t *in, int width)
{
    uint64_t number = 0;
    while (width--)
        number = number << 8 | *in++;
    return number;
}

#endif
