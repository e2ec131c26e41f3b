/*
 * Convolutions by oneDNN, any shape.
 *
 * The caller's threads share a plan: primitives and weights are shared by all of them, whatever is
 * written (memory objects, arguments, scratch memory, partial gradients) exists once per lane, that
 * is per value of `slice`. Every primitive is made and run single-threaded, so that its sums have
 * one order only.
 */
#include "onednn.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FORWARD,
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    PACK,          /* canonical kernel -> what forward wants */
    PACK_BACKWARD, /* the same for the gradient of the input */
    UNPACK,        /* gradient of the kernel -> canonical */
    OPERATIONS
};

enum {
    /* One for all lanes. */
    KERNEL,
    BIAS,
    WEIGHTS,
    WEIGHTS_BACKWARD,
    /* One per lane. */
    SRC,
    DST,
    DIFF_SRC,
    DIFF_DST,
    DIFF_WEIGHTS,
    DIFF_KERNEL,
    DIFF_BIAS,
    SCRATCHPAD, /* and one more for each further operation */
    TENSORS = SCRATCHPAD + OPERATIONS
};

enum { MAX_ARGUMENTS = 5 };

static const struct binding {
    int argument, tensor;
} bindings[OPERATIONS][MAX_ARGUMENTS] = {
    [FORWARD] = {{DNNL_ARG_SRC, SRC}, {DNNL_ARG_WEIGHTS, WEIGHTS}, {DNNL_ARG_BIAS, BIAS},
        {DNNL_ARG_DST, DST}},
    [BACKWARD_DATA] = {{DNNL_ARG_DIFF_DST, DIFF_DST}, {DNNL_ARG_WEIGHTS, WEIGHTS_BACKWARD},
        {DNNL_ARG_DIFF_SRC, DIFF_SRC}},
    [BACKWARD_WEIGHTS] = {{DNNL_ARG_SRC, SRC}, {DNNL_ARG_DIFF_DST, DIFF_DST},
        {DNNL_ARG_DIFF_WEIGHTS, DIFF_WEIGHTS}, {DNNL_ARG_DIFF_BIAS, DIFF_BIAS}},
    [PACK] = {{DNNL_ARG_FROM, KERNEL}, {DNNL_ARG_TO, WEIGHTS}},
    [PACK_BACKWARD] = {{DNNL_ARG_FROM, KERNEL}, {DNNL_ARG_TO, WEIGHTS_BACKWARD}},
    [UNPACK] = {{DNNL_ARG_FROM, DIFF_WEIGHTS}, {DNNL_ARG_TO, DIFF_KERNEL}},
};

struct lane {
    dnnl_stream_t stream;
    dnnl_memory_t memory[TENSORS];
    dnnl_exec_arg_t arguments[OPERATIONS][MAX_ARGUMENTS];
    int argument_count[OPERATIONS];
};

struct conv {
    dnnl_engine_t engine;
    dnnl_primitive_desc_t descs[OPERATIONS]; /* NULL: the plan does not need it */
    dnnl_primitive_t primitives[OPERATIONS];
    struct lane *lanes;
    int64_t kernel_count, partial_stride;
    float *partials; /* [lanes][partial_stride]: gradients of kernel, then (aligned) bias */
};

/* The layer in oneDNN's order of dimensions. */
struct geometry {
    dnnl_dims_t src, weights, bias, dst, stride, pad_low, pad_high;
};

static int64_t pad_high(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad_low)
{
    int64_t pad = (out - 1) * stride + kernel - in - pad_low;
    return pad > 0 ? pad : 0; /* negative: the last inputs are not used */
}

static struct geometry geometry_of(const struct dtr_plan *plan)
{
    const struct dtr_layer *layer = plan->layer;
    struct dtr_shape in = layer->in, out = layer->out;
    return (struct geometry){
        .src = {plan->n, in.c, in.h, in.w},
        .weights = {out.c, in.c, layer->kernel_h, layer->kernel_w},
        .bias = {out.c},
        .dst = {plan->n, out.c, out.h, out.w},
        .stride = {layer->stride, layer->stride},
        .pad_low = {layer->pad_top, layer->pad_left},
        .pad_high = {pad_high(in.h, out.h, layer->kernel_h, layer->stride, layer->pad_top),
            pad_high(in.w, out.w, layer->kernel_w, layer->stride, layer->pad_left)},
    };
}

/* The block of a layout that a format amounts to, 0 if none. */
static int64_t block_of(const_dnnl_memory_desc_t format, const dnnl_dims_t sizes)
{
    const struct {
        dnnl_format_tag_t tag;
        int64_t block;
    } known[] = {{dnnl_nhwc, sizes[1]}, {dnnl_nChw8c, 8}, {dnnl_nChw16c, 16}, {dnnl_nchw, 1}};
    int64_t block = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0] && block == 0; i++) {
        const_dnnl_memory_desc_t desc;
        if (onednn_desc_create(4, sizes, known[i].tag, &desc) == dnnl_success &&
            dnnl_memory_desc_equal(desc, format))
            block = known[i].block;
        onednn_desc_destroy(desc);
    }
    return block;
}

static const_dnnl_memory_desc_t format_of(const struct conv *conv, int operation, int argument)
{
    return dnnl_primitive_desc_query_md(conv->descs[operation], dnnl_query_exec_arg_md, argument);
}

static bool works(dnnl_status_t status)
{
    return status == dnnl_success;
}

/* Scratch memory is the lane's: oneDNN's own would be the primitive's or the thread's. */
static bool make_attributes(dnnl_primitive_attr_t *attributes_out)
{
    return works(dnnl_primitive_attr_create(attributes_out)) &&
           works(
               dnnl_primitive_attr_set_scratchpad_mode(*attributes_out, dnnl_scratchpad_mode_user));
}

static bool describe_reorder(struct conv *conv, int operation, const_dnnl_memory_desc_t from,
    const_dnnl_memory_desc_t to, dnnl_primitive_attr_t attributes)
{
    return works(dnnl_reorder_primitive_desc_create(
        &conv->descs[operation], from, conv->engine, to, conv->engine, attributes));
}

/* Backward in the formats that forward has chosen. */
static bool describe_backward(struct conv *conv, const struct dtr_plan *plan,
    struct onednn_convolution it, const_dnnl_memory_desc_t kernel)
{
    it.forward = conv->descs[FORWARD];
    it.src = format_of(conv, FORWARD, DNNL_ARG_SRC);
    it.dst = format_of(conv, FORWARD, DNNL_ARG_DST);
    it.direction = dnnl_backward_weights;
    if (!works(onednn_convolution_create(conv->engine, &it, &conv->descs[BACKWARD_WEIGHTS])) ||
        !describe_reorder(conv, UNPACK, format_of(conv, BACKWARD_WEIGHTS, DNNL_ARG_DIFF_WEIGHTS),
            kernel, it.attributes))
        return false;
    if (plan->first)
        return true;
    it.direction = dnnl_backward_data;
    return works(onednn_convolution_create(conv->engine, &it, &conv->descs[BACKWARD_DATA])) &&
           describe_reorder(conv, PACK_BACKWARD, kernel,
               format_of(conv, BACKWARD_DATA, DNNL_ARG_WEIGHTS), it.attributes);
}

/* All that the plan needs, with activations in the format `tag` (or any). */
static bool describe(struct conv *conv, const struct dtr_plan *plan, dnnl_format_tag_t tag)
{
    struct geometry sizes = geometry_of(plan);
    const_dnnl_memory_desc_t kernel = NULL;
    struct onednn_convolution it = {
        .direction = plan->training ? dnnl_forward_training : dnnl_forward_inference,
        .stride = sizes.stride,
        .pad_low = sizes.pad_low,
        .pad_high = sizes.pad_high};
    bool done = works(onednn_desc_create(4, sizes.src, tag, &it.src)) &&
                works(onednn_desc_create(4, sizes.weights, dnnl_format_tag_any, &it.weights)) &&
                works(onednn_desc_create(1, sizes.bias, dnnl_a, &it.bias)) &&
                works(onednn_desc_create(4, sizes.dst, tag, &it.dst)) &&
                works(onednn_desc_create(4, sizes.weights, dnnl_hwio, &kernel)) &&
                make_attributes(&it.attributes) &&
                works(onednn_convolution_create(conv->engine, &it, &conv->descs[FORWARD])) &&
                describe_reorder(conv, PACK, kernel, format_of(conv, FORWARD, DNNL_ARG_WEIGHTS),
                    it.attributes) &&
                (!plan->training || describe_backward(conv, plan, it, kernel));
    dnnl_primitive_attr_destroy(it.attributes);
    onednn_desc_destroy(it.src);
    onednn_desc_destroy(it.weights);
    onednn_desc_destroy(it.bias);
    onednn_desc_destroy(it.dst);
    onednn_desc_destroy(kernel);
    return done;
}

static void forget_descs(struct conv *conv)
{
    for (int i = 0; i < OPERATIONS; i++) {
        if (conv->descs[i] != NULL)
            dnnl_primitive_desc_destroy(conv->descs[i]);
        conv->descs[i] = NULL;
    }
}

static bool set_blocks(const struct conv *conv, struct dtr_plan *plan)
{
    struct geometry sizes = geometry_of(plan);
    plan->src = (struct dtr_layout){
        .block = block_of(format_of(conv, FORWARD, DNNL_ARG_SRC), sizes.src)};
    plan->dst = (struct dtr_layout){
        .block = block_of(format_of(conv, FORWARD, DNNL_ARG_DST), sizes.dst)};
    return plan->src.block > 0 && plan->dst.block > 0;
}

static const char *implementation(const struct conv *conv, int operation)
{
    const char *name = "none";
    if (conv->descs[operation] != NULL)
        dnnl_primitive_desc_query(
            conv->descs[operation], dnnl_query_impl_info_str, 0, (void *)&name);
    return name;
}

/* oneDNN's plain C++ is hundreds of times slower than the rest of it. */
static bool is_slow(const struct conv *conv, int operation)
{
    return strncmp(implementation(conv, operation), "ref", 3) == 0;
}

/* The formats that oneDNN likes best for forward. Where it has nothing fast for backward in them
 * (inputs of few channels), [n, h, w, c], for which it has. */
static bool choose_formats(struct conv *conv, struct dtr_plan *plan)
{
    if (describe(conv, plan, dnnl_format_tag_any) && set_blocks(conv, plan) &&
        !is_slow(conv, FORWARD) && !is_slow(conv, BACKWARD_DATA) &&
        !is_slow(conv, BACKWARD_WEIGHTS))
        return true;
    forget_descs(conv);
    return describe(conv, plan, dnnl_nhwc) && set_blocks(conv, plan);
}

static bool make_primitives(struct conv *conv)
{
    for (int i = 0; i < OPERATIONS; i++) {
        if (conv->descs[i] != NULL &&
            !works(dnnl_primitive_create(&conv->primitives[i], conv->descs[i])))
            return false;
    }
    return true;
}

/* Memory for the tensors that exist only here; the others are told their place before each run. */
static void *initial_place(int tensor)
{
    bool ours = tensor == WEIGHTS || tensor == WEIGHTS_BACKWARD || tensor == DIFF_WEIGHTS ||
                tensor >= SCRATCHPAD;
    return ours ? DNNL_MEMORY_ALLOCATE : DNNL_MEMORY_NONE;
}

static bool bind(struct conv *conv, struct lane *lane, int operation, struct binding binding)
{
    dnnl_memory_t *memory = &lane->memory[binding.tensor];
    if (*memory == NULL && binding.tensor < SRC)
        *memory = conv->lanes[0].memory[binding.tensor];
    if (*memory == NULL &&
        !works(dnnl_memory_create(memory, format_of(conv, operation, binding.argument),
            conv->engine, initial_place(binding.tensor))))
        return false;
    lane->arguments[operation][lane->argument_count[operation]++] = (dnnl_exec_arg_t){
        binding.argument, *memory};
    return true;
}

static bool make_lane(struct conv *conv, struct lane *lane)
{
    if (!works(dnnl_stream_create(&lane->stream, conv->engine, dnnl_stream_default_flags)))
        return false;
    for (int i = 0; i < OPERATIONS; i++) {
        if (conv->descs[i] == NULL)
            continue;
        for (int j = 0; j < MAX_ARGUMENTS && bindings[i][j].argument != 0; j++) {
            if (!bind(conv, lane, i, bindings[i][j]))
                return false;
        }
        if (!bind(conv, lane, i, (struct binding){DNNL_ARG_SCRATCHPAD, SCRATCHPAD + i}))
            return false;
    }
    return true;
}

static void place(struct lane *lane, int tensor, const float *values)
{
    dnnl_memory_set_data_handle(lane->memory[tensor], (void *)values);
}

static bool make_lanes(struct conv *conv, const struct dtr_plan *plan)
{
    for (int64_t i = 0; i < plan->lanes; i++) {
        struct lane *lane = &conv->lanes[i];
        float *partial = conv->partials + i * conv->partial_stride;
        if (!make_lane(conv, lane))
            return false;
        if (plan->training) {
            place(lane, DIFF_KERNEL, partial);
            place(lane, DIFF_BIAS, partial + dtr_align_floats(conv->kernel_count));
        }
    }
    return true;
}

static void destroy(struct dtr_plan *plan)
{
    struct conv *conv = plan->state;
    for (int64_t i = 0; conv->lanes != NULL && i < plan->lanes; i++) {
        struct lane *lane = &conv->lanes[i];
        for (int j = i == 0 ? 0 : SRC; j < TENSORS; j++) {
            if (lane->memory[j] != NULL)
                dnnl_memory_destroy(lane->memory[j]);
        }
        if (lane->stream != NULL)
            dnnl_stream_destroy(lane->stream);
    }
    for (int i = 0; i < OPERATIONS; i++) {
        if (conv->primitives[i] != NULL)
            dnnl_primitive_destroy(conv->primitives[i]);
    }
    forget_descs(conv);
    if (conv->engine != NULL)
        dnnl_engine_destroy(conv->engine);
    free(conv->partials);
    free(conv->lanes);
    free(conv);
    plan->state = NULL;
}

static enum dtr_status alloc(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    plan->state = dtr_alloc(1, sizeof(struct conv), layer->name, error);
    if (plan->state == NULL)
        return error->status;
    struct conv *conv = plan->state;
    conv->kernel_count = layer->kernel_h * layer->kernel_w * layer->in.c * layer->out.c;
    conv->partial_stride = dtr_align_floats(conv->kernel_count) + dtr_align_floats(layer->out.c);
    int64_t partials = plan->training ? plan->lanes * conv->partial_stride : 0;
    conv->lanes = dtr_alloc(plan->lanes, sizeof *conv->lanes, layer->name, error);
    conv->partials = dtr_alloc(partials, sizeof *conv->partials, "partial gradients", error);
    if (conv->lanes == NULL || conv->partials == NULL)
        return error->status;
    return DTR_OK;
}

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    onednn_use_one_thread();
    if (onednn_limit(plan, error) != DTR_OK)
        return error->status;
    enum dtr_status status = alloc(plan, error);
    struct conv *conv = plan->state;
    if (status == DTR_OK &&
        !(works(dnnl_engine_create(&conv->engine, dnnl_cpu, 0)) && choose_formats(conv, plan) &&
            make_primitives(conv) && make_lanes(conv, plan)))
        status = dtr_error_set(error, DTR_FAILED,
            "%s: oneDNN %d.%d.%d cannot set up this convolution; free some memory, or use "
            "--kernels reference",
            plan->layer->name, dnnl_version()->major, dnnl_version()->minor, dnnl_version()->patch);
    if (status != DTR_OK) {
        if (conv != NULL)
            destroy(plan);
        return status;
    }
    bool slow = is_slow(conv, BACKWARD_DATA) || is_slow(conv, BACKWARD_WEIGHTS);
    snprintf(plan->detail, sizeof plan->detail, "%s%s", implementation(conv, FORWARD),
        slow ? ", slow backward" : "");
    return DTR_OK;
}

static void run(struct dtr_plan *plan, struct lane *lane, int operation)
{
    const struct conv *conv = plan->state;
    onednn_use_one_thread();
    onednn_require(dnnl_primitive_execute(conv->primitives[operation], lane->stream,
                       lane->argument_count[operation], lane->arguments[operation]),
        plan);
    onednn_require(dnnl_stream_wait(lane->stream), plan);
}

static void update(
    struct dtr_plan *plan, struct dtr_piece piece, const float *kernel, const float *bias)
{
    struct conv *conv = plan->state;
    struct lane *lane = &conv->lanes[0];
    if (piece.part > 0)
        return;
    place(lane, KERNEL, kernel);
    place(lane, BIAS, bias);
    run(plan, lane, PACK);
    if (conv->primitives[PACK_BACKWARD] != NULL)
        run(plan, lane, PACK_BACKWARD);
}

static int64_t result_count(const struct dtr_plan *plan)
{
    return plan->n * dtr_layout_sample(plan->layer->out, plan->dst);
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    struct conv *conv = plan->state;
    struct lane *lane = &conv->lanes[piece.slice];
    place(lane, SRC, src);
    place(lane, DST, dst);
    run(plan, lane, FORWARD);
    if (plan->layer->relu)
        onednn_relu(result_count(plan), dst);
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    struct conv *conv = plan->state;
    struct lane *lane = &conv->lanes[piece.slice];
    if (plan->layer->relu)
        onednn_relu_backward(result_count(plan), dst, diff_dst);
    place(lane, SRC, src);
    place(lane, DIFF_DST, diff_dst);
    run(plan, lane, BACKWARD_WEIGHTS);
    run(plan, lane, UNPACK);
    if (diff_src != NULL) {
        place(lane, DIFF_SRC, diff_src);
        run(plan, lane, BACKWARD_DATA);
    }
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    (void)src;
    (void)diff_dst;
    const struct conv *conv = plan->state;
    int64_t stride = conv->partial_stride;
    dtr_reduce_partials(
        plan, piece, conv->partials, stride, conv->kernel_count, sink, sink->kernel);
    dtr_reduce_partials(plan, piece, conv->partials + dtr_align_floats(conv->kernel_count), stride,
        plan->layer->out.c, sink, sink->bias);
}

const struct dtr_kernel dtr_onednn_conv = {.name = "onednn",
    .create = create,
    .destroy = destroy,
    .update = update,
    .forward = forward,
    .backward = backward,
    .reduce = reduce};
