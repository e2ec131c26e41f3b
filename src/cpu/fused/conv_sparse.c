/*
 * The kernel's gradient: for each block of source channels and each output channel, the sums of a
 * few rows of taps stay in registers while the channel's list runs over the source, of which so
 * much is taken at a time as stays in the first-level cache.
 *
 * The source's gradient: for each block of source channels and a few rows of taps, whose kernels
 * all stay in the first-level cache, along each row of outputs: the kernels of the channels that
 * have a gradient are added up in registers for the source's pixels that the taps read, of which
 * one more is complete after every output.
 */
#include "conv_sparse.h"
#include "conv_accumulate.h"
#include "conv_lists.h"

enum {
    SRC_FLOATS = 6 * 1024,    /* of the source in the first-level cache */
    KERNEL_FLOATS = 8 * 1024, /* of kernels there */
    LIST_ENTRIES = 32 * 1024, /* of lists in the second-level cache */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t largest(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* `count` in groups of `most` (at least 1) or less, as equal as possible: the size of all but the
 * last. */
static int64_t group_size(int64_t count, int64_t most)
{
    const int64_t groups = (count + most - 1) / most;
    return (count + groups - 1) / groups;
}

static void choose_bands(struct conv_sizes *sizes)
{
    const struct conv_shape *shape = sizes->shape;
    const struct dtr_shape result = shape->result;
    const int64_t step = shape->pool ? 2 : 1, row_entries = result.w * result.c;
    const int64_t src_rows = SRC_FLOATS / sizes->src_row; /* that stay in the cache */
    const int64_t rows_of_src = sizes->src_plane <= SRC_FLOATS
                                    ? result.h
                                    : (src_rows - shape->kernel_h + 1) / step;
    const int64_t rows_of_entries = LIST_ENTRIES / row_entries;
    sizes->source_band = largest(1, least(result.h, rows_of_entries));
    sizes->kernel_band = largest(1, least(sizes->source_band, rows_of_src));
    sizes->kernel_samples = 1;
    if (sizes->kernel_band == result.h)
        sizes->kernel_samples = largest(
            1, least(SRC_FLOATS / sizes->src_plane, LIST_ENTRIES / (row_entries * result.h)));
    /* With an odd number of cache lines, lists that grow together do not compete for a few sets. */
    const int64_t most = sizes->kernel_samples * sizes->kernel_band * result.w + VEC;
    sizes->capacity = ((most + 15) / 16 | 1) * 16;
}

static struct conv_sizes sizes_of(const struct conv_shape *shape)
{
    const int64_t step = shape->pool ? 2 : 1;
    const bool thin = conv_is_thin(shape);
    struct conv_sizes sizes = {
        .shape = shape,
        .blocks = thin ? 1 : shape->in.c / VEC,
        .columns = thin ? thin_row(shape) / VEC : shape->kernel_w,
        .positions = step * step,
        .src_row = dtr_layout_row(shape->in, shape->src),
        .src_plane = dtr_layout_plane(shape->in, shape->src),
        .src_sample = dtr_layout_sample(shape->in, shape->src),
        .dst_row = dtr_layout_row(shape->result, shape->dst),
        .dst_plane = dtr_layout_plane(shape->result, shape->dst),
        .dst_sample = dtr_layout_sample(shape->result, shape->dst),
        .dst_origin = dtr_layout_origin(shape->result, shape->dst),
        .winners_plane = shape->result.h * shape->result.w * VEC,
        .winners_sample = dtr_shape_count(shape->result),
    };
    sizes.taps = shape->kernel_h * sizes.columns * VEC;
    sizes.corner = dtr_layout_origin(shape->in, shape->src) - shape->pad_top * sizes.src_row -
                   shape->pad_left * shape->src.block;
    sizes.step_y = step * sizes.src_row;
    sizes.step_x = step * shape->src.block;
    choose_bands(&sizes);

    const int64_t tile = largest(1, least(TILE_ROWS, TILE_VECTORS / sizes.columns));
    const int64_t cached = KERNEL_FLOATS / (shape->out.c * sizes.columns * VEC);
    sizes.kernel_tile = group_size(shape->kernel_h, tile);
    sizes.source_tile = group_size(shape->kernel_h, largest(1, least(tile, cached)));
    return sizes;
}

bool ISA(conv_sparse_suits)(const struct conv_shape *shape)
{
    if (shape->result.h < 1 || shape->result.w < 1 || shape->out.c % VEC != 0)
        return false;
    const struct conv_sizes sizes = sizes_of(shape);
    return sizes.columns <= TILE_COLUMNS && sizes.kernel_samples * sizes.src_sample <= INT32_MAX &&
           shape->out.c <= INT32_MAX;
}

int64_t ISA(conv_sparse_packed_floats)(const struct conv_shape *shape)
{
    const struct conv_sizes sizes = sizes_of(shape);
    return conv_is_thin(shape) ? 0 : sizes.blocks * shape->out.c * sizes.taps;
}

/* [block][rows of a tile][oc][row][kernel_w][VEC] */
void ISA(conv_sparse_pack)(
    const struct conv_shape *shape, int part, int parts, const float *kernel, float *packed)
{
    const struct conv_sizes sizes = sizes_of(shape);
    const int64_t channels = shape->out.c, kernels = sizes.blocks * channels;
    const int64_t row = sizes.columns * VEC;
    for (int64_t i = kernels * part / parts; i < kernels * (part + 1) / parts; i++) {
        const int64_t block = i / channels, channel = i % channels;
        for (int64_t first = 0; first < shape->kernel_h; first += sizes.source_tile) {
            const int64_t rows = least(sizes.source_tile, shape->kernel_h - first);
            memcpy(
                packed + block * channels * sizes.taps + (first * channels + rows * channel) * row,
                kernel + i * sizes.taps + first * row, (size_t)(rows * row) * sizeof(float));
        }
    }
}

struct scratch {
    struct conv_entries entries;
    struct conv_list *lists;
    float *bias;    /* [out.c] */
    uint32_t *bits; /* [positions][out.c / VEC] */
};

/* `count` objects of the memory, which is used up to *used. */
static void *take(char *memory, int64_t count, size_t size, size_t *used)
{
    void *taken = memory == NULL ? NULL : memory + *used;
    *used += ((size_t)count * size + 63) / 64 * 64;
    return taken;
}

/* Without memory: only its size. */
static struct scratch divide_scratch(
    const struct conv_sizes *sizes, void *memory, int64_t *bytes_out)
{
    const int64_t channels = sizes->shape->out.c;
    const int64_t results = sizes->source_band * sizes->shape->result.w;
    const int64_t entries = largest(sizes->capacity, results) * channels + VEC;
    const int64_t lists = largest(channels, results * sizes->positions);
    struct scratch scratch;
    size_t used = 0;
    scratch.entries.at = take(memory, entries, sizeof *scratch.entries.at, &used);
    scratch.entries.gradients = take(memory, entries, sizeof *scratch.entries.gradients, &used);
    scratch.lists = take(memory, lists, sizeof *scratch.lists, &used);
    scratch.bias = take(memory, channels, sizeof *scratch.bias, &used);
    scratch.bits = take(memory, sizes->positions * channels / VEC, sizeof *scratch.bits, &used);
    *bytes_out = (int64_t)used;
    return scratch;
}

int64_t ISA(conv_sparse_scratch_bytes)(const struct conv_shape *shape)
{
    const struct conv_sizes sizes = sizes_of(shape);
    int64_t bytes;
    divide_scratch(&sizes, NULL, &bytes);
    return bytes;
}

/* What stays the same during a call. */
struct pass {
    const struct conv_sizes *sizes;
    const struct conv_sparse_slice *slice;
    struct scratch scratch;
};

static struct conv_band band_of(
    const struct pass *pass, int64_t sample, int64_t samples, int64_t begin, int64_t rows)
{
    const struct conv_sizes *sizes = pass->sizes;
    const struct conv_sparse_slice *slice = pass->slice;
    return (struct conv_band){
        .samples = least(samples, slice->count - sample),
        .begin = begin,
        .end = least(begin + rows, sizes->shape->result.h),
        .dst = slice->dst + sample * sizes->dst_sample,
        .diff_dst = slice->diff_dst + sample * sizes->dst_sample,
        .winners = sizes->shape->pool ? slice->winners + sample * sizes->winners_sample : NULL,
    };
}

/* Units [begin, end) of work. */
struct share {
    int64_t begin, end;
};

static struct share share_of(int64_t units, int part, int parts)
{
    return (struct share){units * part / parts, units * (part + 1) / parts};
}

/* Unit i is block i / blocks of output channels and block i % blocks of source channels: of a
 * source block, this is where a share begins or ends in blocks of output channels. */
static int64_t first_block(int64_t unit, int64_t block, int64_t blocks)
{
    return (unit - block + blocks - 1) / blocks;
}

static enum tile_kind kernel_tile_kind(const struct conv_shape *shape)
{
    const bool half = conv_is_thin(shape) && shape->kernel_w * shape->in.c <= VEC / 2;
    return half ? TILE_GO_ON_HALF : TILE_GO_ON;
}

static void add_band(const struct pass *pass, struct share share, const struct conv_band *band,
    bool first, const float *src, float *diff_kernel)
{
    const struct conv_sizes *sizes = pass->sizes;
    const struct conv_shape *shape = sizes->shape;
    const struct scratch *scratch = &pass->scratch;
    const int64_t blocks = sizes->blocks;
    ISA(conv_list_channels)
    (sizes, band, share.begin / blocks, first_block(share.end, 0, blocks), scratch->entries,
        scratch->lists, scratch->bias);
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t begin = VEC * first_block(share.begin, block, blocks);
        const int64_t end = VEC * first_block(share.end, block, blocks);
        for (int64_t row = 0; row < shape->kernel_h; row += sizes->kernel_tile) {
            const struct conv_tile tile = {
                .entries = scratch->entries,
                .from = src + block * sizes->src_plane + row * sizes->src_row,
                .unit = 1,
                .from_row = sizes->src_row,
                .to = diff_kernel + block * shape->out.c * sizes->taps + row * sizes->columns * VEC,
                .from_zero = first,
            };
            conv_accumulate(kernel_tile_kind(shape),
                least(sizes->kernel_tile, shape->kernel_h - row), sizes->columns, tile,
                scratch->lists + begin, end - begin);
        }
    }
}

static void kernel_gradient(
    const struct pass *pass, struct share share, float *diff_kernel, float *diff_bias)
{
    const struct conv_sizes *sizes = pass->sizes;
    const int64_t channels = sizes->shape->out.c, height = sizes->shape->result.h;
    memset(pass->scratch.bias, 0, (size_t)channels * sizeof(float));
    for (int64_t sample = 0; sample < pass->slice->count; sample += sizes->kernel_samples) {
        for (int64_t row = 0; row < height; row += sizes->kernel_band) {
            const struct conv_band band = band_of(
                pass, sample, sizes->kernel_samples, row, sizes->kernel_band);
            add_band(pass, share, &band, sample + row == 0,
                pass->slice->src + sample * sizes->src_sample, diff_kernel);
        }
    }
    for (int64_t unit = share.begin; unit < share.end; unit++) {
        const int64_t channel = unit / sizes->blocks * VEC;
        if (unit % sizes->blocks == 0)
            memcpy(diff_bias + channel, pass->scratch.bias + channel, VEC * sizeof(float));
    }
}

/* A band's share of the gradient of a block of source channels. */
static void add_to_source(const struct pass *pass, int64_t block, const struct conv_band *band,
    const float *packed, float *diff_src)
{
    const struct conv_sizes *sizes = pass->sizes;
    const struct conv_shape *shape = sizes->shape;
    const int64_t tap_row = sizes->columns * VEC, step = shape->pool ? 2 : 1;
    const int64_t width = step * shape->result.w;
    for (int64_t row = 0; row < shape->kernel_h; row += sizes->source_tile) {
        const int64_t rows = least(sizes->source_tile, shape->kernel_h - row);
        const struct conv_tile tile = {
            .entries = pass->scratch.entries,
            .from = packed + (block * shape->kernel_h + row) * shape->out.c * tap_row,
            .unit = rows * tap_row,
            .from_row = tap_row,
            .to = diff_src + row * sizes->src_row,
            .to_row = sizes->src_row,
        };
        for (int64_t y = 0; y < step * (band->end - band->begin); y++) {
            const int64_t src_y = step * band->begin + y + row - shape->pad_top;
            if (src_y + rows > 0 && src_y < shape->in.h) /* not all of it is padding */
                conv_accumulate(
                    TILE_SLIDE, rows, sizes->columns, tile, pass->scratch.lists + y * width, width);
        }
    }
}

/* Of a sample's blocks, [share.begin, share.end). */
static void source_gradient(const struct pass *pass, int64_t sample, struct share share,
    const float *packed, float *diff_src)
{
    const struct conv_sizes *sizes = pass->sizes;
    const struct conv_shape *shape = sizes->shape;
    const struct scratch *scratch = &pass->scratch;
    memset(diff_src + share.begin * sizes->src_plane, 0,
        (size_t)((share.end - share.begin) * sizes->src_plane) * sizeof(float));
    for (int64_t begin = 0; begin < shape->result.h; begin += sizes->source_band) {
        const struct conv_band band = band_of(pass, sample, 1, begin, sizes->source_band);
        ISA(conv_list_positions)(sizes, &band, scratch->bits, scratch->entries, scratch->lists);
        for (int64_t block = share.begin; block < share.end; block++)
            add_to_source(pass, block, &band, packed, diff_src + block * sizes->src_plane);
    }
}

void ISA(conv_sparse_backward)(const struct conv_shape *shape,
    const struct conv_sparse_slice *slice, const float *packed, int part, int parts, void *scratch,
    float *diff_src, float *diff_kernel, float *diff_bias)
{
    const struct conv_sizes sizes = sizes_of(shape);
    const int64_t blocks = sizes.blocks;
    int64_t bytes;
    const struct pass pass = {&sizes, slice, divide_scratch(&sizes, scratch, &bytes)};
    const struct share kernels = share_of(shape->out.c / VEC * blocks, part, parts);
    if (kernels.begin < kernels.end)
        kernel_gradient(&pass, kernels, diff_kernel, diff_bias);
    if (diff_src == NULL)
        return;
    const struct share sources = share_of(slice->count * blocks, part, parts);
    for (int64_t sample = sources.begin / blocks; sample * blocks < sources.end; sample++) {
        const struct share share = {largest(0, sources.begin - sample * blocks),
            least(blocks, sources.end - sample * blocks)};
        source_gradient(&pass, sample, share, packed, diff_src + sample * sizes.src_sample);
    }
}
