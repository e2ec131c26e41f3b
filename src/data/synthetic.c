#include "dtrain/synthetic.h"

#include "dtrain/random.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SIDE = DTR_SYNTHETIC_SIDE,
    STROKE_POINTS = 11, /* at most, in a stroke */
    GLYPH_STROKES = 2,  /* at most, in a variant of a digit */
    SPAN_STEPS = 3,     /* straight pieces between two points of a curve */
    PATH_POINTS = GLYPH_STROKES * (1 + (STROKE_POINTS - 1) * SPAN_STEPS),
};

struct point {
    float x, y;
};

/* A line of the pen: a smooth curve through its points; a point given twice is a corner. */
struct stroke {
    uint8_t digit, variant;
    int count;
    struct point points[STROKE_POINTS]; /* x to the right, y down, percent of the height */
};

static const uint32_t variants[DTR_SYNTHETIC_CLASSES] = {2, 3, 2, 2, 2, 2, 2, 2, 2, 2};

/* The ways people write each digit: digit, variant, points. */
static const struct stroke strokes[] = {
    {0, 0, 9,
        {{52, 0}, {24, 13}, {12, 50}, {24, 86}, {50, 100}, {76, 86}, {88, 50}, {76, 14}, {48, 0}}},
    {0, 1, 9,
        {{66, 10}, {40, 2}, {18, 30}, {18, 70}, {42, 99}, {72, 80}, {82, 40}, {64, 8}, {36, 8}}},
    {1, 0, 3, {{50, 0}, {50, 50}, {50, 100}}},
    {1, 1, 5, {{32, 26}, {52, 0}, {52, 0}, {52, 50}, {52, 100}}},
    {1, 2, 5, {{32, 26}, {52, 0}, {52, 0}, {52, 50}, {52, 100}}},
    {1, 2, 2, {{28, 100}, {76, 100}}},
    {2, 0, 10,
        {{14, 24}, {30, 4}, {58, 2}, {76, 22}, {66, 48}, {38, 74}, {10, 98}, {10, 98}, {50, 96},
            {88, 98}}},
    {2, 1, 10,
        {{14, 22}, {36, 2}, {66, 6}, {74, 34}, {52, 66}, {24, 94}, {10, 86}, {26, 78}, {56, 92},
            {90, 92}}},
    {3, 0, 10,
        {{14, 12}, {40, 0}, {72, 10}, {70, 34}, {42, 46}, {42, 46}, {76, 58}, {80, 84}, {48, 100},
            {10, 88}}},
    {3, 1, 9,
        {{14, 2}, {78, 2}, {78, 2}, {42, 40}, {42, 40}, {76, 54}, {80, 82}, {50, 100}, {12, 92}}},
    {4, 0, 6, {{24, 4}, {18, 30}, {12, 56}, {12, 56}, {50, 56}, {88, 52}}},
    {4, 0, 3, {{70, 2}, {68, 50}, {62, 100}}},
    {4, 1, 4, {{64, 0}, {8, 66}, {8, 66}, {92, 66}}},
    {4, 1, 3, {{64, 0}, {64, 50}, {64, 100}}},
    {5, 0, 10,
        {{80, 2}, {28, 4}, {28, 4}, {20, 44}, {20, 44}, {52, 38}, {80, 58}, {74, 86}, {44, 100},
            {10, 90}}},
    {5, 1, 8, {{28, 4}, {22, 42}, {22, 42}, {54, 36}, {82, 60}, {74, 88}, {42, 100}, {10, 88}}},
    {5, 1, 2, {{28, 4}, {84, 0}}},
    {6, 0, 9,
        {{66, 0}, {36, 22}, {18, 58}, {26, 90}, {52, 100}, {78, 84}, {70, 60}, {46, 54}, {20, 70}}},
    {6, 1, 9,
        {{44, 0}, {26, 34}, {20, 72}, {36, 98}, {64, 96}, {74, 76}, {58, 60}, {34, 68}, {20, 82}}},
    {7, 0, 5, {{10, 6}, {84, 4}, {84, 4}, {56, 48}, {40, 100}}},
    {7, 1, 5, {{10, 6}, {84, 4}, {84, 4}, {56, 48}, {40, 100}}},
    {7, 1, 2, {{32, 50}, {78, 46}}},
    {8, 0, 11,
        {{76, 12}, {50, 0}, {24, 16}, {36, 38}, {66, 58}, {78, 80}, {50, 100}, {22, 82}, {34, 58},
            {66, 38}, {76, 14}}},
    {8, 1, 7, {{50, 47}, {26, 34}, {28, 10}, {52, 0}, {74, 12}, {72, 34}, {50, 47}}},
    {8, 1, 7, {{50, 47}, {22, 62}, {20, 86}, {48, 100}, {80, 86}, {76, 62}, {50, 47}}},
    {9, 0, 9,
        {{76, 14}, {48, 0}, {20, 18}, {24, 44}, {52, 46}, {78, 14}, {78, 14}, {76, 56}, {66, 100}}},
    {9, 1, 9,
        {{74, 16}, {46, 0}, {18, 22}, {28, 48}, {60, 42}, {78, 14}, {80, 48}, {62, 86}, {22, 98}}},
};

/* How the pen differs from image to image. */
struct pen {
    float radius; /* of the line, pixels */
    float edge;   /* width of the line's soft edge, pixels */
    float ink;    /* grey value of full ink */
    float grain;  /* how far noise moves the edge, pixels */
};

/* Where a glyph's points go: quadratic terms are added, then a matrix applied. */
struct warp {
    float bend[2][3];   /* of x and y by x*x, x*y, y*y */
    float matrix[2][2]; /* rotation, slant and proportions */
    float jitter;       /* standard deviation of a point alone */
};

/* Where the pen goes: straight to each point from the one before, or with the pen lifted. */
struct path {
    int count;
    struct point points[PATH_POINTS];
    bool lifted[PATH_POINTS];
};

static float uniform(struct dtr_random *random, float low, float high)
{
    return low + (high - low) * (float)dtr_random_uniform(random);
}

static float normal(struct dtr_random *random, float deviation)
{
    return deviation * (float)dtr_random_truncated_normal(random);
}

static float smaller(float a, float b)
{
    return a < b ? a : b;
}

static float larger(float a, float b)
{
    return a > b ? a : b;
}

/* max(a, 0); gcc makes a badly predicted branch of larger(a, 0). */
static float positive(float a)
{
    return (a + __builtin_fabsf(a)) / 2;
}

/* Each number in a statement of its own: the order of evaluation within one is the compiler's. */
static struct pen choose_pen(struct dtr_random *random)
{
    struct pen pen;
    pen.radius = uniform(random, 0.8f, 1.8f);
    pen.edge = uniform(random, 1.0f, 1.8f);
    pen.ink = uniform(random, 190, 255);
    pen.grain = uniform(random, 0, 0.35f);
    return pen;
}

static struct warp choose_warp(struct dtr_random *random)
{
    struct warp warp;
    for (int i = 0; i < 6; i++)
        warp.bend[i / 3][i % 3] = normal(random, 0.3f);
    /* A rotation by 2 atan(half) without sine and cosine. */
    float half = normal(random, 0.09f);
    float cosine = (1 - half * half) / (1 + half * half);
    float sine = 2 * half / (1 + half * half);
    float slant = 0.1f + normal(random, 0.22f);
    float width = 1 + normal(random, 0.17f);
    warp.matrix[0][0] = cosine * width;
    warp.matrix[0][1] = -cosine * slant - sine;
    warp.matrix[1][0] = sine * width;
    warp.matrix[1][1] = -sine * slant + cosine;
    warp.jitter = uniform(random, 0.01f, 0.065f);
    return warp;
}

static struct point place(struct dtr_random *random, const struct warp *warp, struct point point)
{
    float x = (point.x - 50) * 0.01f, y = (point.y - 50) * 0.01f;
    float bent[2];
    for (int i = 0; i < 2; i++) {
        const float *bend = warp->bend[i];
        bent[i] = bend[0] * x * x + bend[1] * x * y + bend[2] * y * y;
    }
    x += bent[0] + normal(random, warp->jitter);
    y += bent[1] + normal(random, warp->jitter);
    return (struct point){
        warp->matrix[0][0] * x + warp->matrix[0][1] * y,
        warp->matrix[1][0] * x + warp->matrix[1][1] * y,
    };
}

/* The point at 0 <= t <= 1 of the Catmull-Rom curve from p1 to p2. */
static float spline(float p0, float p1, float p2, float p3, float t)
{
    float start = (p2 - p0) / 2, end = (p3 - p1) / 2, chord = p2 - p1;
    return p1 + t * (start + t * (3 * chord - 2 * start - end + t * (start + end - 2 * chord)));
}

static void add_point(struct path *path, struct point point, bool lifted)
{
    path->points[path->count] = point;
    path->lifted[path->count] = lifted;
    path->count++;
}

static void add_curve(struct path *path, const struct point points[], int count)
{
    add_point(path, points[0], true);
    for (int i = 0; i + 1 < count; i++) {
        const struct point *p1 = &points[i], *p2 = &points[i + 1];
        const struct point *p0 = i > 0 ? p1 - 1 : p1, *p3 = i + 2 < count ? p2 + 1 : p2;
        bool corner = p1->x == p2->x && p1->y == p2->y;
        for (int step = 1; step <= SPAN_STEPS && !corner; step++) {
            float t = (float)step / SPAN_STEPS;
            struct point point = {
                spline(p0->x, p1->x, p2->x, p3->x, t), spline(p0->y, p1->y, p2->y, p3->y, t)};
            add_point(path, point, false);
        }
    }
}

static void add_stroke(struct path *path, struct dtr_random *random, const struct warp *warp,
    const struct stroke *stroke)
{
    struct point placed[STROKE_POINTS];
    for (int i = 0; i < stroke->count; i++) {
        const struct point *point = &stroke->points[i];
        bool corner = i > 0 && point->x == point[-1].x && point->y == point[-1].y;
        placed[i] = corner ? placed[i - 1] : place(random, warp, *point);
    }
    add_curve(path, placed, stroke->count);
}

/* As in MNIST the longer side fills about 20 pixels near the middle; no ink leaves the image. */
static void fit_to_image(struct path *path, struct dtr_random *random, const struct pen *pen)
{
    struct point low = path->points[0], high = low;
    for (int i = 1; i < path->count; i++) {
        const struct point *point = &path->points[i];
        low.x = smaller(low.x, point->x);
        low.y = smaller(low.y, point->y);
        high.x = larger(high.x, point->x);
        high.y = larger(high.y, point->y);
    }
    float size = uniform(random, 17, 20) - 2 * pen->radius;
    float scale = size / larger(high.x - low.x, high.y - low.y);
    float middle_x = (SIDE - 1) / 2.0f + uniform(random, -1.8f, 1.8f);
    float middle_y = (SIDE - 1) / 2.0f + uniform(random, -1.8f, 1.8f);
    for (int i = 0; i < path->count; i++) {
        struct point *point = &path->points[i];
        point->x = (point->x - (low.x + high.x) / 2) * scale + middle_x;
        point->y = (point->y - (low.y + high.y) / 2) * scale + middle_y;
    }
}

/* Lowers the squared distances of the pixels within `reach` of the line from a to b. */
static void approach(float squares[SIDE * SIDE], struct point a, struct point b, float reach)
{
    int left = (int)larger(smaller(a.x, b.x) - reach + 1, 0);
    int right = (int)smaller(larger(a.x, b.x) + reach, SIDE - 1);
    int top = (int)larger(smaller(a.y, b.y) - reach + 1, 0);
    int bottom = (int)smaller(larger(a.y, b.y) + reach, SIDE - 1);
    struct point middle = {(a.x + b.x) / 2, (a.y + b.y) / 2};
    float dx = b.x - a.x, dy = b.y - a.y;
    float length = __builtin_sqrtf(larger(dx * dx + dy * dy, 1e-6f));
    dx /= length;
    dy /= length;
    for (int y = top; y <= bottom; y++) {
        float *row = &squares[y * SIDE];
        float py = (float)y - middle.y;
        for (int x = left; x <= right; x++) {
            float px = (float)x - middle.x;
            float across = px * dy - py * dx;
            float beyond = positive(__builtin_fabsf(px * dx + py * dy) - length / 2);
            row[x] = smaller(row[x], across * across + beyond * beyond);
        }
    }
}

static void apply_ink(uint8_t image[SIDE * SIDE], const float squares[SIDE * SIDE],
    struct dtr_random *random, const struct pen *pen, float reach)
{
    float gain = pen->ink / pen->edge;
    for (int i = 0; i < SIDE * SIDE; i++) {
        image[i] = 0;
        if (squares[i] >= reach * reach)
            continue;
        float outline = pen->radius + pen->edge / 2 + uniform(random, -pen->grain, pen->grain);
        float grey = gain * (outline - __builtin_sqrtf(squares[i]));
        image[i] = (uint8_t)(smaller(positive(grey), pen->ink) + 0.5f);
    }
}

uint8_t dtr_synthetic_digit(
    uint64_t seed, uint32_t split, int64_t index, uint8_t image_out[28 * 28])
{
    struct dtr_random random = dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, split, 0, (uint64_t)index);
    uint32_t label = dtr_random_below(&random, DTR_SYNTHETIC_CLASSES);
    uint32_t variant = dtr_random_below(&random, variants[label]);
    struct pen pen = choose_pen(&random);
    struct warp warp = choose_warp(&random);

    struct path path;
    path.count = 0;
    for (size_t i = 0; i < sizeof strokes / sizeof *strokes; i++)
        if (strokes[i].digit == label && strokes[i].variant == variant)
            add_stroke(&path, &random, &warp, &strokes[i]);
    fit_to_image(&path, &random, &pen);

    float reach = pen.radius + pen.edge / 2 + pen.grain;
    float squares[SIDE * SIDE];
    for (int i = 0; i < SIDE * SIDE; i++)
        squares[i] = reach * reach;
    for (int i = 1; i < path.count; i++)
        if (!path.lifted[i])
            approach(squares, path.points[i - 1], path.points[i], reach);
    apply_ink(image_out, squares, &random, &pen, reach);
    return (uint8_t)label;
}
