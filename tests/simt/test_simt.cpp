/*
 * Whether kernels run on the CPU as they should: correct ones (sample_kernels.cu) compute in every
 * schedule what they would on a device, and the bugs of planted_kernels.cu are found. Those may end
 * the process, so each runs in one of its own: test_simt BUG SCHEDULE, by its number.
 */
#include "sample_kernels.h"
#include "simt.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(                                                                               \
                stderr, "%s:%d: schedule %s: not %s\n", __FILE__, __LINE__, schedule, #condition); \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const char *const schedules[] = {"forward", "reverse", "1", "2", "3"};
static const char *schedule = "";

cudaError_t dtr_simt_enqueue(cudaStream_t, std::function<void()> work)
{
    work();
    return cudaSuccess;
}

/* Small whole numbers: sums of their products are exact in any order. */
static std::vector<float> numbers(int count, int seed)
{
    std::vector<float> values((size_t)count);
    uint32_t state = (uint32_t)seed;

    for (float &value : values) {
        state = state * 1664525u + 1013904223u;
        value = (float)(int)(state >> 24) - 128.0f;
    }
    return values;
}

static void test_indices(void)
{
    const uint32_t count = 2 * 3 * 4 * 5 * 6 * 7;
    std::vector<uint32_t> dst(count, UINT32_MAX);

    CHECK(sample_number(dim3(2, 3, 4), dim3(5, 6, 7), dst.data(), NULL) == cudaSuccess);
    for (uint32_t i = 0; i < count; i++)
        CHECK(dst[i] == i);
}

static void test_sum(void)
{
    static const int sizes[] = {32, 96, 1024};

    for (int threads : sizes) {
        const int blocks = 3;
        std::vector<float> src = numbers(blocks * threads, threads), dst(blocks);
        CHECK(sample_sum(blocks, threads, src.data(), dst.data(), NULL) == cudaSuccess);
        for (int block = 0; block < blocks; block++) {
            float sum = 0;
            for (int i = 0; i < threads; i++)
                sum += src[(size_t)(block * threads + i)];
            CHECK(dst[(size_t)block] == sum);
        }
    }
}

static void test_warp(void)
{
    uint32_t src[32], dst[SAMPLE_WARP_COUNT][32], odd = 0;

    for (uint32_t i = 0; i < 32; i++) {
        src[i] = (i * i + 7) % 61;
        odd |= (src[i] & 1) << i;
    }
    CHECK(sample_warp(src, dst[0], NULL) == cudaSuccess);
    for (uint32_t i = 0; i < 32; i++) {
        CHECK(dst[SAMPLE_SHUFFLE_1][i] == src[5]);
        CHECK(dst[SAMPLE_SHUFFLE_HALF][i] == src[i / 16 * 16 + 3]);
        CHECK(dst[SAMPLE_XOR][i] == src[i ^ 9]);
        CHECK(dst[SAMPLE_UP][i] == src[i < 3 ? i : i - 3]);
        CHECK(dst[SAMPLE_DOWN][i] == src[i % 8 < 6 ? i + 2 : i]);
        unsigned long long word = (unsigned long long)__double_as_longlong((double)src[i ^ 1]);
        CHECK(dst[SAMPLE_DOUBLE][i] == (uint32_t)(word >> 32));
        CHECK(dst[SAMPLE_BALLOT][i] == odd);
        CHECK(dst[SAMPLE_BALLOT_EVEN][i] == (i % 2 == 0 ? odd & 0x55555555u : 0));
        CHECK(dst[SAMPLE_ANY][i] == 1 && dst[SAMPLE_ALL][i] == 1);
    }
    src[0] = 1000; /* was the only 7 */
    CHECK(sample_warp(src, dst[0], NULL) == cudaSuccess);
    CHECK(dst[SAMPLE_ANY][0] == 0 && dst[SAMPLE_ALL][0] == 0);
}

static void test_atomics(void)
{
    const int buckets = 10, blocks = 5;
    std::vector<uint32_t> src(1000);
    unsigned counts[buckets] = {}, expected[buckets] = {}, last[2] = {};

    for (uint32_t i = 0; i < src.size(); i++) {
        src[i] = i * i % 127;
        expected[src[i] % buckets]++;
    }
    CHECK(sample_count(blocks, 64, 1000, src.data(), buckets, counts, last, NULL) == cudaSuccess);
    CHECK(memcmp(counts, expected, sizeof(counts)) == 0);
    CHECK(last[0] == blocks && last[1] == blocks - 1);
}

static void test_copies(void)
{
    alignas(16) uint32_t src[32];
    uint32_t dst[32];

    for (uint32_t i = 0; i < 32; i++)
        src[i] = i + 100;
    CHECK(sample_copy(src, dst, NULL) == cudaSuccess);
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t expected = src[i];
        if (i < 16 && i % 4 > i / 4) /* the first 1, 2, 3, 4 words of four */
            expected = 0;
        if (i >= 24 && i % 2 == 0)
            expected = 0;
        CHECK(dst[i] == expected);
    }
}

static void test_products(void)
{
    static const int depths[] = {8, 64, 4, 60};
    const int m = 48, columns = 8;

    for (int k : depths) {
        alignas(16) static float a[48 * 64], b[64 * 8];
        std::vector<float> left = numbers(m * k, 1), right = numbers(k * columns, 2);
        std::vector<float> c((size_t)(m * columns));
        memcpy(a, left.data(), left.size() * sizeof(float));
        memcpy(b, right.data(), right.size() * sizeof(float));
        CHECK(sample_tf32(m, k, a, b, c.data(), NULL) == cudaSuccess);
        for (int i = 0; i < m * columns; i++) {
            float sum = 0;
            for (int j = 0; j < k; j++)
                sum += a[i / columns * k + j] * b[j * columns + i % columns];
            CHECK(c[(size_t)i] == sum);
        }
    }
    std::vector<float> a = numbers(16 * 16, 3), b = numbers(16 * 8, 4), c(16 * 8);
    CHECK(sample_bf16(a.data(), b.data(), c.data(), NULL) == cudaSuccess);
    for (size_t i = 0; i < c.size(); i++) {
        float sum = 0;
        for (size_t j = 0; j < 16; j++)
            sum += a[i / 8 * 16 + j] * b[j * 8 + i % 8];
        CHECK(c[i] == sum);
    }
}

/* x to nearest even with the lowest `dropped` bits of its mantissa gone, by another way: the sum
 * with a number so large that those bits do not fit is rounded by the processor. */
static uint32_t rounded(float x, int dropped)
{
    uint32_t bits = __float_as_uint(x);
    int exponent = (int)(bits >> 23 & 0xff) - 127;

    if (x != x)
        return 0x7fffffffu & ~((1u << (dropped - 13)) - 1u);
    if (exponent == 128)
        return bits;
    if (exponent < -126) /* no normal number: its last bit is the smallest one's */
        exponent = -126;
    double large = ldexp(
        3.0, exponent + dropped - 23 + 51); /* bits of 2^(exponent - 23 + dropped) */
    double sum = (double)x + large;
    __asm__ volatile("" : "+m"(sum));
    float result = (float)(sum - large);
    return __float_as_uint(result) | (bits & 0x80000000u);
}

static void test_rounding(void)
{
    std::vector<float> src;

    for (uint32_t i = 0; i < 1u << 16; i++) { /* both neighbours of ties, and ties, of both types */
        uint32_t high = i * 40503u << 16;
        for (uint32_t low : {0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0u})
            src.push_back(__uint_as_float(high | low));
    }
    std::vector<uint32_t> tf32(src.size()), bf16(src.size());
    CHECK(sample_round((int)src.size(), src.data(), tf32.data(), bf16.data(), NULL) == cudaSuccess);
    for (size_t i = 0; i < src.size(); i++) {
        CHECK(tf32[i] == (src[i] != src[i] ? 0x7fffffffu : rounded(src[i], 13)));
        uint32_t low = src[i] != src[i] ? 0x7fffu : rounded(src[i], 16) >> 16;
        uint32_t high = src[i] != src[i] ? 0x7fffu : low ^ 0x8000u;
        CHECK(bf16[i] == (low | high << 16));
    }
}

static void test_poison(void)
{
    uint32_t dst[3] = {};

    CHECK(sample_poison(3, dst, NULL) == cudaSuccess);
    for (uint32_t word : dst)
        CHECK(word == UINT32_MAX);
}

/* When thread i of 3 blocks of 64 runs. */
static std::vector<unsigned> order_of(const char *name)
{
    unsigned counter = 0;
    std::vector<unsigned> order(192);

    dtr_simt_set_schedule(name);
    CHECK(sample_order(3, 64, &counter, order.data(), NULL) == cudaSuccess);
    return order;
}

static void test_schedules(void)
{
    std::vector<unsigned> forward = order_of("forward"), reverse = order_of("reverse");
    std::vector<unsigned> random = order_of("5"), other = order_of("6");
    std::vector<bool> seen(random.size());

    schedule = "any";
    for (unsigned i = 0; i < forward.size(); i++) {
        CHECK(forward[i] == i);
        CHECK(reverse[i] == forward.size() - 1 - i);
        CHECK(random[i] < seen.size() && !seen[random[i]]);
        seen[random[i]] = true;
    }
    CHECK(random != forward && random != reverse && random != other);
    CHECK(random == order_of("5"));
    setenv("DTRAIN_SIMT_SCHEDULE", "reverse", 1);
    CHECK(order_of(NULL) == reverse);
    setenv("DTRAIN_SIMT_SCHEDULE", "5", 1);
    CHECK(order_of(NULL) == random);
    unsetenv("DTRAIN_SIMT_SCHEDULE");
    CHECK(order_of(NULL) == forward);
}

/* Runs one bug, and says what came out: "right", or the bits of it. */
static int run_planted(enum planted_bug bug)
{
    std::vector<float> src = numbers(PLANTED_STEPS * PLANTED_THREADS, 9);
    alignas(16) static float copy[PLANTED_STEPS * PLANTED_THREADS], dst[PLANTED_THREADS];
    bool right = true;

    memcpy(copy, src.data(), sizeof(copy));
    CHECK(planted_run(bug, copy, dst, NULL) == cudaSuccess);
    for (int i = 0; i < PLANTED_THREADS; i++) {
        float sum = 0;
        for (int step = 0; step < PLANTED_STEPS; step++)
            sum += copy[step * PLANTED_THREADS + (i + PLANTED_SHIFT) % PLANTED_THREADS];
        right = right && dst[i] == sum;
    }
    if (right)
        printf("right");
    for (int i = 0; i < PLANTED_THREADS && !right; i++)
        printf("%08x ", __float_as_uint(dst[i]));
    return 0;
}

struct outcome {
    int status;       /* of waitpid() */
    std::string said; /* on both outputs */
};

static struct outcome run_child(int bug, const char *name)
{
    struct outcome outcome;
    int pipe_ends[2];
    char number[16], part[4096];
    ssize_t got;

    snprintf(number, sizeof(number), "%d", bug);
    CHECK(pipe(pipe_ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(pipe_ends[1], 1);
        dup2(pipe_ends[1], 2);
        close(pipe_ends[0]);
        setenv("TSAN_OPTIONS", "atexit_sleep_ms=0", 0); /* or each takes a second */
        execl("/proc/self/exe", "test_simt", number, name, (char *)NULL);
        _exit(127);
    }
    close(pipe_ends[1]);
    while ((got = read(pipe_ends[0], part, sizeof(part))) > 0)
        outcome.said.append(part, (size_t)got);
    close(pipe_ends[0]);
    CHECK(waitpid(child, &outcome.status, 0) == child);
    return outcome;
}

static bool says(const struct outcome &outcome, const char *what)
{
    return outcome.said.find(what) != std::string::npos;
}

/* The process must end with the message, in the order of schedules forward, reverse. */
static void check_message(enum planted_bug bug, const char *forward, const char *reverse)
{
    for (const char *name : {"forward", "reverse"}) {
        const char *message = name[0] == 'f' ? forward : reverse;
        struct outcome outcome = run_child(bug, name);
        schedule = name;
        if (!says(outcome, message))
            fprintf(
                stderr, "bug %d: expected \"%s\", got:\n%s", bug, message, outcome.said.c_str());
        CHECK(says(outcome, message));
        CHECK(WIFEXITED(outcome.status) && WEXITSTATUS(outcome.status) == 99);
    }
}

static void test_messages(void)
{
    const char *some = "is reached by some threads only", *outside = "outside its mask 0xffff";

    check_message(PLANTED_DIVERGENT_SHUFFLE,
        "simt: use_warp_wrongly, block (0, 0, 0), thread (16, "
        "0, 0): lanes of a warp diverge: shuffle at line",
        "thread (47, 0, 0): lanes of a warp diverge: shuffle at line");
    check_message(PLANTED_SHUFFLE_OUTSIDE, outside, outside);
    check_message(PLANTED_NOT_IN_MASK, "lane 16 is not in its mask 0xffff", "lane 31 is not in");
    check_message(
        PLANTED_MASKS_DIFFER, "with mask 0xfffffffe, others", "with mask 0xffffffff, others");
    check_message(PLANTED_SHORT_WARP, "has lanes that the block has not", "has lanes that");
    check_message(PLANTED_EXITED_LANE, "waits for lane 0, which has exited", "lane 0 exits, but");
    check_message(PLANTED_SOME_AT_BARRIER, "some threads only: this one exits", some);
    check_message(PLANTED_DIFFERENT_BARRIERS, "different barriers", "different barriers");
    check_message(PLANTED_WARP_AT_BARRIER, "waits for lane 0, which waits at __syncthreads()",
        "lane 15 waits at __syncthreads(), but shuffle at");
    check_message(PLANTED_MISALIGNED_COPY, "is not a multiple of 16", "is not a multiple of 16");
    check_message(PLANTED_COPY_OUTSIDE, "outside of shared memory", "outside of shared memory");
    check_message(PLANTED_BLOCK_SIZE, "bad block size (1025, 1, 1)", "bad block size");
    check_message(PLANTED_GRID_SIZE, "bad grid size (0, 1, 1)", "bad grid size");
    check_message(PLANTED_SHARED_SIZE, "232449 bytes of shared memory", "bytes of shared memory");
    struct outcome outcome = run_child(PLANTED_NONE, "backwards");
    CHECK(says(outcome, "schedule \"backwards\" is none of forward, reverse, a number"));
}

/* What nobody can forbid shows in the results, and TSan sees it. */
static void test_races(void)
{
    for (enum planted_bug bug : {PLANTED_NONE, PLANTED_NO_BARRIER, PLANTED_EARLY_OVERWRITE,
             PLANTED_NO_WAIT, PLANTED_WAIT_FOR_OLDER}) {
        int wrong = 0, different = 0;
        std::string first;
        for (const char *name : schedules) {
            struct outcome outcome = run_child(bug, name);
            schedule = name;
            if (first.empty())
                first = outcome.said;
            wrong += !says(outcome, "right");
            different += outcome.said != first;
#ifdef __SANITIZE_THREAD__
            bool race = bug == PLANTED_NO_BARRIER || bug == PLANTED_EARLY_OVERWRITE;
            if (bug == PLANTED_WAIT_FOR_OLDER)
                continue; /* a copy so late that others are at it, or not: as it happens */
            CHECK(says(outcome, "data race") == race);
            CHECK(says(outcome, "planted_kernels.c") == race);
            CHECK((WEXITSTATUS(outcome.status) == 66) == race);
#else
            CHECK(WIFEXITED(outcome.status) && WEXITSTATUS(outcome.status) == 0);
#endif
        }
        schedule = "any";
        if (bug == PLANTED_NONE)
            CHECK(wrong == 0);
        else
            CHECK(wrong > 0);
        if (bug == PLANTED_NO_BARRIER || bug == PLANTED_EARLY_OVERWRITE)
            CHECK(different > 0);
    }
#ifdef __SANITIZE_THREAD__
    CHECK(says(run_child(PLANTED_BLOCK_RACE, "forward"), "data race"));
#endif
}

static void test_overflow(void)
{
    struct outcome outcome = run_child(PLANTED_OVERFLOW, "forward");

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    CHECK(says(outcome, "SEGV") && says(outcome, "planted_kernels.c"));
#else
    CHECK(WIFSIGNALED(outcome.status) && WTERMSIG(outcome.status) == SIGSEGV);
#endif
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        dtr_simt_set_schedule(argv[2]);
        return run_planted((enum planted_bug)atoi(argv[1]));
    }
    for (const char *name : schedules) {
        schedule = name;
        dtr_simt_set_schedule(name);
        test_indices();
        test_sum();
        test_warp();
        test_atomics();
        test_copies();
        test_products();
        test_rounding();
        test_poison();
    }
    test_schedules();
    test_messages();
    test_races();
    test_overflow();
    printf("all as it should be\n");
    return 0;
}
