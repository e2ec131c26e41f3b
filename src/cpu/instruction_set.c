#include "dtrain/cpu.h"

enum dtr_isa dtr_isa_detect(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return DTR_ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return DTR_ISA_AVX2;
#endif
    return DTR_ISA_BASELINE;
}

const char *dtr_isa_name(enum dtr_isa isa)
{
    static const char *const names[DTR_ISA_COUNT] = {"baseline", "avx2", "avx512"};
    return names[isa];
}

enum dtr_status dtr_isa_choose(int named, enum dtr_isa *isa_out, struct dtr_error *error)
{
    enum dtr_isa largest = dtr_isa_detect();
    *isa_out = named > 0 ? (enum dtr_isa)(named - 1) : largest;
    if (*isa_out <= largest)
        return DTR_OK;
    return dtr_error_set(error, DTR_LAUNCH,
        "--isa %s, but this CPU has %s at most; leave the option out, or use nodes that have it",
        dtr_isa_name(*isa_out), dtr_isa_name(largest));
}
