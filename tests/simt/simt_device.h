/*
 * CUDA's functions for device code, as far as kernels use them, on the CPU. What threads wait for
 * in them is in simt.cpp and simt_warp.cpp; `line` is the caller's, for messages and to tell one
 * barrier from another.
 */
#ifndef DTRAIN_TESTS_SIMT_SIMT_DEVICE_H
#define DTRAIN_TESTS_SIMT_SIMT_DEVICE_H

void __syncthreads(int line = __builtin_LINE());
void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE());

/* `bits` of the lane `source`, of its own if that is -1. */
uint64_t dtr_simt_shuffle(unsigned mask, uint64_t bits, int source, int line);
unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE());

static inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return __ballot_sync(mask, predicate, line) != 0;
}

static inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE())
{
    return __ballot_sync(mask, predicate, line) == mask;
}

static inline int dtr_simt_lane(void)
{
    return static_cast<int>(
        (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

template <typename T> T dtr_simt_shuffle_value(unsigned mask, T value, int source, int line)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(value));
    bits = dtr_simt_shuffle(mask, bits, source, line);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Lanes are numbered in segments of `width`, and a lane beside the own segment is the own. */
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, int line = __builtin_LINE())
{
    int first = dtr_simt_lane() & ~(width - 1);
    return dtr_simt_shuffle_value(mask, value, first + (source & (width - 1)), line);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE())
{
    int lane = dtr_simt_lane(), source = lane ^ bits;
    bool inside = source < (lane & ~(width - 1)) + width;
    return dtr_simt_shuffle_value(mask, value, inside ? source : -1, line);
}

template <typename T>
T __shfl_down_sync(
    unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE())
{
    int lane = dtr_simt_lane(), source = lane + static_cast<int>(delta);
    bool inside = source < (lane & ~(width - 1)) + width;
    return dtr_simt_shuffle_value(mask, value, inside ? source : -1, line);
}

template <typename T>
T __shfl_up_sync(
    unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE())
{
    int lane = dtr_simt_lane(), source = lane - static_cast<int>(delta);
    bool inside = source >= (lane & ~(width - 1));
    return dtr_simt_shuffle_value(mask, value, inside ? source : -1, line);
}

/* Integers only: sums of floats must not depend on an order. */
#define DTR_SIMT_ATOMICS(T)                                                                        \
    static inline T atomicAdd(T *address, T value)                                                 \
    {                                                                                              \
        return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);                               \
    }                                                                                              \
    static inline T atomicOr(T *address, T value)                                                  \
    {                                                                                              \
        return __atomic_fetch_or(address, value, __ATOMIC_ACQ_REL);                                \
    }                                                                                              \
    static inline T atomicAnd(T *address, T value)                                                 \
    {                                                                                              \
        return __atomic_fetch_and(address, value, __ATOMIC_ACQ_REL);                               \
    }                                                                                              \
    static inline T atomicExch(T *address, T value)                                                \
    {                                                                                              \
        return __atomic_exchange_n(address, value, __ATOMIC_ACQ_REL);                              \
    }                                                                                              \
    static inline T atomicCAS(T *address, T expected, T value)                                     \
    {                                                                                              \
        __atomic_compare_exchange_n(                                                               \
            address, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);                 \
        return expected;                                                                           \
    }                                                                                              \
    static inline T atomicMax(T *address, T value)                                                 \
    {                                                                                              \
        T old = __atomic_load_n(address, __ATOMIC_ACQUIRE);                                        \
        while (old < value && !__atomic_compare_exchange_n(address, &old, value, false,            \
                                  __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {                           \
        }                                                                                          \
        return old;                                                                                \
    }                                                                                              \
    static inline T atomicMin(T *address, T value)                                                 \
    {                                                                                              \
        T old = __atomic_load_n(address, __ATOMIC_ACQUIRE);                                        \
        while (value < old && !__atomic_compare_exchange_n(address, &old, value, false,            \
                                  __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {                           \
        }                                                                                          \
        return old;                                                                                \
    }
DTR_SIMT_ATOMICS(int)
DTR_SIMT_ATOMICS(unsigned)
DTR_SIMT_ATOMICS(unsigned long long)
#undef DTR_SIMT_ATOMICS

/* One host thread runs all: there is nothing to order but what the compiler does. */
static inline void __threadfence_block(void)
{
    __asm__ volatile("" ::: "memory");
}
static inline void __threadfence(void)
{
    __asm__ volatile("" ::: "memory");
}
static inline void __threadfence_system(void)
{
    __asm__ volatile("" ::: "memory");
}

template <typename T> T __ldg(const T *address)
{
    return *address;
}
template <typename T> T __ldcg(const T *address)
{
    return *address;
}
template <typename T> T __ldcs(const T *address)
{
    return *address;
}
template <typename T> void __stcs(T *address, T value)
{
    *address = value;
}

/* As CUDA's: of a number and a NaN, the number. */
#define DTR_SIMT_MIN_MAX(T, smaller, larger)                                                       \
    static inline T min(T a, T b)                                                                  \
    {                                                                                              \
        return smaller;                                                                            \
    }                                                                                              \
    static inline T max(T a, T b)                                                                  \
    {                                                                                              \
        return larger;                                                                             \
    }
DTR_SIMT_MIN_MAX(int, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(unsigned, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(long, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(unsigned long, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(long long, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(unsigned long long, b < a ? b : a, a < b ? b : a)
DTR_SIMT_MIN_MAX(float, fminf(a, b), fmaxf(a, b))
DTR_SIMT_MIN_MAX(double, fmin(a, b), fmax(a, b))
#undef DTR_SIMT_MIN_MAX

/* Bits of one type seen as another. */
#define DTR_SIMT_CAST(name, From, To)                                                              \
    static inline To name(From from)                                                               \
    {                                                                                              \
        To to;                                                                                     \
        static_assert(sizeof(to) == sizeof(from), "only the type changes");                        \
        memcpy(&to, &from, sizeof(to));                                                            \
        return to;                                                                                 \
    }
DTR_SIMT_CAST(__float_as_uint, float, unsigned)
DTR_SIMT_CAST(__uint_as_float, unsigned, float)
DTR_SIMT_CAST(__float_as_int, float, int)
DTR_SIMT_CAST(__int_as_float, int, float)
DTR_SIMT_CAST(__double_as_longlong, double, long long)
DTR_SIMT_CAST(__longlong_as_double, long long, double)
#undef DTR_SIMT_CAST

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

/* Rounded by themselves, to nearest even: the empty asm keeps a compiler that contracts
 * a * b + c from seeing what the value came from. */
#if defined(__x86_64__)
#define DTR_SIMT_KEEP(value) __asm__("" : "+x"(value))
#else
#define DTR_SIMT_KEEP(value) __asm__("" : "+m"(value))
#endif
#define DTR_SIMT_ROUNDED(name, T, expression)                                                      \
    static inline T name(T a, T b)                                                                 \
    {                                                                                              \
        T value = expression;                                                                      \
        DTR_SIMT_KEEP(value);                                                                      \
        return value;                                                                              \
    }
DTR_SIMT_ROUNDED(__fadd_rn, float, a + b)
DTR_SIMT_ROUNDED(__fsub_rn, float, a - b)
DTR_SIMT_ROUNDED(__fmul_rn, float, a *b)
DTR_SIMT_ROUNDED(__fdiv_rn, float, a / b)
DTR_SIMT_ROUNDED(__dadd_rn, double, a + b)
DTR_SIMT_ROUNDED(__dsub_rn, double, a - b)
DTR_SIMT_ROUNDED(__dmul_rn, double, a *b)
DTR_SIMT_ROUNDED(__ddiv_rn, double, a / b)
#undef DTR_SIMT_ROUNDED
#undef DTR_SIMT_KEEP

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

#endif
