#include "fused.h"

extern const struct dtr_kernel fused_conv_baseline, fused_dense_baseline;
#if defined(__x86_64__)
extern const struct dtr_kernel fused_conv_avx2, fused_dense_avx2;
extern const struct dtr_kernel fused_conv_avx512, fused_dense_avx512;
#endif

const struct dtr_kernel *fused_kernel(enum dtr_layer_kind kind, enum dtr_isa isa)
{
    static const struct dtr_kernel *const convs[DTR_ISA_COUNT] = {
        [DTR_ISA_BASELINE] = &fused_conv_baseline,
#if defined(__x86_64__)
        [DTR_ISA_AVX2] = &fused_conv_avx2,
        [DTR_ISA_AVX512] = &fused_conv_avx512,
#endif
    };
    static const struct dtr_kernel *const denses[DTR_ISA_COUNT] = {
        [DTR_ISA_BASELINE] = &fused_dense_baseline,
#if defined(__x86_64__)
        [DTR_ISA_AVX2] = &fused_dense_avx2,
        [DTR_ISA_AVX512] = &fused_dense_avx512,
#endif
    };
    if (kind == DTR_LAYER_CONV)
        return convs[isa];
    return kind == DTR_LAYER_DENSE ? denses[isa] : NULL;
}
