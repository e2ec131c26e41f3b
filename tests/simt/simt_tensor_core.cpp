/* See simt_tensor_core.h. */
#include "simt_internal.h"

/* In groups, each a number; the thread's `group` is the one that its next copies belong to. What is
 * written here is the thread's own doing, so TSan may see it. */
void dtr_simt_async_copy(void *shared, const void *global, int bytes, int source_bytes, int line)
{
    struct dtr_simt_thread *self = dtr_simt_current;

    if (source_bytes < 0 || source_bytes > bytes)
        dtr_simt_die("asynchronous copy at line %d: %d bytes of %d", line, source_bytes, bytes);
    if (!dtr_simt_is_shared(shared, (size_t)bytes))
        dtr_simt_die("asynchronous copy at line %d to outside of shared memory", line);
    if ((uintptr_t)shared % (unsigned)bytes != 0 || (uintptr_t)global % (unsigned)bytes != 0)
        dtr_simt_die(
            "asynchronous copy at line %d: an address is not a multiple of %d", line, bytes);
    memset(shared, 0xff, (size_t)bytes);
    self->copies.push_back({shared, global, bytes, source_bytes, self->group});
}

void dtr_async_commit(void)
{
    dtr_simt_current->group++;
}

void dtr_simt_async_wait(unsigned pending)
{
    struct dtr_simt_thread *self = dtr_simt_current;
    size_t arrived = 0;

    for (const struct dtr_simt_copy &copy : self->copies) {
        unsigned age = self->group - copy.group; /* 0: not committed, 1: of the newest group */
        if (age == 0 || age <= pending)
            break;
        memset(copy.shared, 0, (size_t)copy.bytes);
        memcpy(copy.shared, copy.global, (size_t)copy.source_bytes);
        arrived++;
    }
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)arrived);
}

static uint32_t bf16_round(float x)
{
    uint32_t bits = __float_as_uint(x);

    return x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fffu;
}

uint32_t dtr_bf16_pack(float low, float high)
{
    return bf16_round(low) | bf16_round(high) << 16;
}

enum { ROWS = 16, COLUMNS = 8 };

/* c += a b for all lanes of a warp; `a` [ROWS, depth] and `b` [depth, COLUMNS] are put together
 * from the lanes' fragments already. */
DTR_SIMT_HIDDEN static inline __attribute__((always_inline)) void multiply(
    struct dtr_simt_warp *warp, int depth, const float *a, const float *b)
{
    float c[ROWS][COLUMNS];

    for (int lane = 0; lane < DTR_SIMT_LANES; lane++) {
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++)
            c[row + i / 2 * 8][column + i % 2] = warp->lanes[lane].c[i];
    }
    for (int row = 0; row < ROWS; row++) {
        for (int k = 0; k < depth; k++) {
            for (int column = 0; column < COLUMNS; column++)
                c[row][column] += a[row * depth + k] * b[k * COLUMNS + column];
        }
    }
    for (int lane = 0; lane < DTR_SIMT_LANES; lane++) {
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++)
            warp->lanes[lane].c[i] = c[row + i / 2 * 8][column + i % 2];
    }
}

/* The device takes no notice of the bits that TF32 does not have. */
DTR_SIMT_HIDDEN static float tf32_value(uint32_t bits)
{
    return __uint_as_float(bits & ~0x1fffu);
}

DTR_SIMT_HIDDEN static void complete_tf32(struct dtr_simt_warp *warp, unsigned)
{
    enum { DEPTH = 8 };
    float a[ROWS][DEPTH], b[DEPTH][COLUMNS];

    for (int lane = 0; lane < DTR_SIMT_LANES; lane++) {
        const struct dtr_simt_thread *thread = &warp->lanes[lane];
        int row = lane / 4, column = lane % 4;
        for (int i = 0; i < 4; i++)
            a[row + i % 2 * 8][column + i / 2 * 4] = tf32_value(thread->a[i]);
        for (int i = 0; i < 2; i++)
            b[column + i * 4][row] = tf32_value(thread->b[i]);
    }
    multiply(warp, DEPTH, a[0], b[0]);
}

/* Either half of a register. */
DTR_SIMT_HIDDEN static float bf16_value(uint32_t pair, int half)
{
    return __uint_as_float(half == 0 ? pair << 16 : pair & 0xffff0000u);
}

DTR_SIMT_HIDDEN static void complete_bf16(struct dtr_simt_warp *warp, unsigned)
{
    enum { DEPTH = 16 };
    float a[ROWS][DEPTH], b[DEPTH][COLUMNS];

    for (int lane = 0; lane < DTR_SIMT_LANES; lane++) {
        const struct dtr_simt_thread *thread = &warp->lanes[lane];
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            for (int half = 0; half < 2; half++)
                a[row + i % 2 * 8][column + i / 2 * 8 + half] = bf16_value(thread->a[i], half);
        }
        for (int i = 0; i < 2; i++) {
            for (int half = 0; half < 2; half++)
                b[column + i * 8 + half][row] = bf16_value(thread->b[i], half);
        }
    }
    multiply(warp, DEPTH, a[0], b[0]);
}

/* Fragments stay where they are: every lane waits until the last one has done it. */
DTR_SIMT_HIDDEN static void meet(const struct dtr_simt_operation *operation, float *c,
    const uint32_t *a, const uint32_t *b, int line)
{
    struct dtr_simt_thread *self = dtr_simt_current;

    self->c = c;
    self->a = a;
    self->b = b;
    dtr_simt_meet(operation, 0xffffffffu, line);
}

DTR_SIMT_HIDDEN void dtr_mma_tf32(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line)
{
    static const struct dtr_simt_operation operation = {"dtr_mma_tf32()", complete_tf32, false};

    meet(&operation, c, a, b, line);
}

DTR_SIMT_HIDDEN void dtr_mma_bf16(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line)
{
    static const struct dtr_simt_operation operation = {"dtr_mma_bf16()", complete_bf16, false};

    meet(&operation, c, a, b, line);
}
