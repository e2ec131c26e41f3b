/*
 * What the layers by oneDNN share, and oneDNN's C API the same for versions 2 and 3: descriptors
 * are pointers that somebody owns, as in version 3. The only file that includes dnnl.h. Private to
 * src/cpu/onednn*.c. Local.
 */
#ifndef DTRAIN_CPU_ONEDNN_H
#define DTRAIN_CPU_ONEDNN_H

#include "dtrain/kernel.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"

#include <dnnl.h>
#include <omp.h>
#include <stdlib.h>

#if DNNL_VERSION_MAJOR < 3
typedef const dnnl_memory_desc_t *const_dnnl_memory_desc_t; /* the name that version 3 has */
#endif

/* Nothing beyond the plan's instruction set. That can be said before oneDNN's first use alone;
 * later it has to be the same. */
static inline enum dtr_status onednn_limit(const struct dtr_plan *plan, struct dtr_error *error)
{
    static const dnnl_cpu_isa_t limits[DTR_ISA_COUNT] = {
        [DTR_ISA_BASELINE] = dnnl_cpu_isa_sse41,
        [DTR_ISA_AVX2] = dnnl_cpu_isa_avx2,
        [DTR_ISA_AVX512] = dnnl_cpu_isa_avx512_core,
    };
    if (dnnl_set_max_cpu_isa(limits[plan->isa]) == dnnl_success ||
        dnnl_get_effective_cpu_isa() == limits[plan->isa])
        return DTR_OK;
    return dtr_error_set(error, DTR_FAILED,
        "%s: oneDNN in this process already works with other instructions than %s",
        plan->layer->name, dtr_isa_name(plan->isa));
}

/* oneDNN asks OpenMP how many threads to use, when it makes a primitive and when it runs one.
 * OpenMP keeps the answer per calling thread, so every thread says it before every call. */
static inline void onednn_use_one_thread(void)
{
    omp_set_num_threads(1);
}

/* A float tensor's memory layout. Destroy with onednn_desc_destroy(). */
static inline dnnl_status_t onednn_desc_create(
    int dims, const dnnl_dims_t sizes, dnnl_format_tag_t tag, const_dnnl_memory_desc_t *desc_out)
{
#if DNNL_VERSION_MAJOR < 3
    dnnl_memory_desc_t *desc = malloc(sizeof *desc);
    *desc_out = desc;
    if (desc == NULL)
        return dnnl_out_of_memory;
    return dnnl_memory_desc_init_by_tag(desc, dims, sizes, dnnl_f32, tag);
#else
    dnnl_memory_desc_t desc = NULL;
    dnnl_status_t status = dnnl_memory_desc_create_with_tag(&desc, dims, sizes, dnnl_f32, tag);
    *desc_out = desc;
    return status;
#endif
}

static inline void onednn_desc_destroy(const_dnnl_memory_desc_t desc)
{
#if DNNL_VERSION_MAJOR < 3
    free((void *)desc);
#else
    if (desc != NULL)
        dnnl_memory_desc_destroy((dnnl_memory_desc_t)desc);
#endif
}

/* One direction of a convolution. src, weights, bias and dst stand for their gradients too. */
struct onednn_convolution {
    dnnl_prop_kind_t direction;
    const_dnnl_memory_desc_t src, weights, bias, dst;
    const dnnl_dim_t *stride, *pad_low, *pad_high; /* [2]: height, width */
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t forward; /* of a backward direction; NULL for the forward one */
};

static inline dnnl_status_t onednn_convolution_create(
    dnnl_engine_t engine, const struct onednn_convolution *it, dnnl_primitive_desc_t *desc_out)
{
    const dnnl_alg_kind_t algorithm = dnnl_convolution_direct;
#if DNNL_VERSION_MAJOR < 3
    dnnl_convolution_desc_t operation;
    dnnl_status_t status;
    if (it->direction == dnnl_backward_data)
        status = dnnl_convolution_backward_data_desc_init(&operation, algorithm, it->src,
            it->weights, it->dst, it->stride, it->pad_low, it->pad_high);
    else if (it->direction == dnnl_backward_weights)
        status = dnnl_convolution_backward_weights_desc_init(&operation, algorithm, it->src,
            it->weights, it->bias, it->dst, it->stride, it->pad_low, it->pad_high);
    else
        status = dnnl_convolution_forward_desc_init(&operation, it->direction, algorithm, it->src,
            it->weights, it->bias, it->dst, it->stride, it->pad_low, it->pad_high);
    if (status != dnnl_success)
        return status;
    return dnnl_primitive_desc_create(desc_out, &operation, it->attributes, engine, it->forward);
#else
    const dnnl_dims_t dilation = {0};
    if (it->direction == dnnl_backward_data)
        return dnnl_convolution_backward_data_primitive_desc_create(desc_out, engine, algorithm,
            it->src, it->weights, it->dst, it->stride, dilation, it->pad_low, it->pad_high,
            it->forward, it->attributes);
    if (it->direction == dnnl_backward_weights)
        return dnnl_convolution_backward_weights_primitive_desc_create(desc_out, engine, algorithm,
            it->src, it->weights, it->bias, it->dst, it->stride, dilation, it->pad_low,
            it->pad_high, it->forward, it->attributes);
    return dnnl_convolution_forward_primitive_desc_create(desc_out, engine, it->direction,
        algorithm, it->src, it->weights, it->bias, it->dst, it->stride, dilation, it->pad_low,
        it->pad_high, it->attributes);
#endif
}

/* In a step nobody can hand an error upward, and going on would train on garbage. */
static inline void onednn_require(dnnl_status_t status, const struct dtr_plan *plan)
{
    if (status == dnnl_success)
        return;
    dtr_complain(
        "%s: oneDNN failed with status %d in the middle of a step", plan->layer->name, (int)status);
    abort();
}

/* ReLU in place. NaN stays, so that a training that diverges shows; oneDNN's would give 0. */
static inline void onednn_relu(int64_t count, float *dst)
{
    for (int64_t i = 0; i < count; i++)
        dst[i] = dst[i] < 0 ? 0 : dst[i];
}

/* Its gradient in place: nothing passes where its output is not positive. */
static inline void onednn_relu_backward(int64_t count, const float *dst, float *diff_dst)
{
    for (int64_t i = 0; i < count; i++)
        diff_dst[i] = dst[i] > 0 ? diff_dst[i] : 0;
}

#endif
