/* What the CPU replica and an exchange owe each other. */
#include "dtrain/random.h"
#include "problem.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float *nan_floats(int64_t count)
{
    float *floats = malloc((size_t)count * sizeof *floats);
    ck_assert_ptr_nonnull(floats);
    for (int64_t i = 0; i < count; i++)
        floats[i] = NAN;
    return floats;
}

/*
 * An exchange that takes what it may and brings no more than it must: as soon as gradients are
 * ready, it keeps a copy of them, lets the replica update the parameters there (where the rank has
 * all shards), takes these away, and brings them back only when they are waited for, or, an `eager`
 * one, at random. What is away is NaN.
 */
struct slow_exchange {
    const struct problem *problem;
    struct dtr_replica *replica;
    struct dtr_exchange exchange;
    int64_t nodes;  /* open ones of the run */
    float *newest;  /* parameters that come back */
    float *ready;   /* gradients as they were when they were ready, like exchange.gradients */
    bool *there;    /* [slab_count] */
    int64_t lowest; /* gradients from here on are ready */
    float rate;     /* 0: no update */
    bool eager;
    struct dtr_random random;
    bool forward;    /* while a forward pass runs: */
    int64_t refused; /* the parameters that were asked for last and have not arrived */
    int waits, refusals, reports;
};

static void take(struct slow_exchange *slow, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++) {
        if (slow->there[i])
            slow->newest[i] = slow->exchange.weights[i];
        slow->exchange.weights[i] = NAN;
        slow->there[i] = false;
    }
}

static void bring(struct slow_exchange *slow, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++) {
        if (!slow->there[i])
            slow->exchange.weights[i] = slow->newest[i];
        slow->there[i] = true;
    }
}

static void slow_ready(void *context, int64_t first)
{
    struct slow_exchange *slow = context;
    int64_t count = slow->lowest - first;
    ck_assert(first >= 0 && count >= 0);
    for (int64_t k = 0; k < slow->nodes; k++) {
        int64_t place = k * slow->exchange.stride + first;
        memcpy(slow->ready + place, slow->exchange.gradients + place,
            (size_t)count * sizeof *slow->ready);
    }
    if (slow->rate > 0)
        slow->replica->ops->apply(
            slow->replica, first, count, first, slow->exchange.gradients + first, slow->rate);
    take(slow, first, count);
    slow->lowest = first;
    slow->reports += count > 0;
}

static bool slow_arrived(void *context, int64_t first, int64_t count)
{
    struct slow_exchange *slow = context;
    ck_assert(first >= 0 && count > 0 && first + count <= slow->problem->model->slab_count);
    if (slow->eager && dtr_random_below(&slow->random, 2) == 0)
        bring(slow, first, count);
    for (int64_t i = first; i < first + count; i++) {
        if (!slow->there[i]) {
            slow->refusals++;
            slow->refused = first;
            return false;
        }
    }
    return true;
}

/* In a forward pass, only the first layer waits at once: every other has been asked for before,
 * and the layers below it have run meanwhile. */
static void slow_wait(void *context, int64_t first, int64_t count)
{
    struct slow_exchange *slow = context;
    ck_assert(first >= 0 && count > 0 && first + count <= slow->problem->model->slab_count);
    bool away = false;
    for (int64_t i = first; i < first + count; i++)
        away = away || !slow->there[i];
    if (slow->forward && away && first > 0)
        ck_assert_int_eq(slow->refused, first);
    slow->waits += away;
    bring(slow, first, count);
}

/* A replica on a new one. Everything is away at first. */
static void slow_create(struct slow_exchange *slow, const struct problem *problem,
    struct dtr_shard_run run, enum dtr_kernel_choice kernels)
{
    int64_t count = problem->model->slab_count, stride = count + 33;
    int64_t nodes = dtr_tree_of(run).depth;
    *slow = (struct slow_exchange){.problem = problem,
        .nodes = nodes,
        .newest = nan_floats(count),
        .ready = nan_floats(nodes * stride),
        .there = calloc((size_t)count, sizeof *slow->there),
        .lowest = count,
        .random = dtr_random_at(1, DTR_RANDOM_SYNTHETIC, 0, 0, 0),
        .exchange = {.context = slow,
            .ready = slow_ready,
            .arrived = slow_arrived,
            .wait = slow_wait,
            .weights = nan_floats(count),
            .gradients = nan_floats(nodes * stride),
            .stride = stride,
            .share_count = count}};
    memset(slow->there, true, (size_t)count * sizeof *slow->there);
    slow->replica = problem_replica_on(problem, run.first, run.count, 2, kernels, slow->exchange);
    take(slow, 0, count);
}

static void slow_free(struct slow_exchange *slow)
{
    problem_replica_free(slow->replica);
    free(slow->newest);
    free(slow->ready);
    free(slow->there);
    free(slow->exchange.weights);
    free(slow->exchange.gradients);
}

static struct dtr_step_result slow_forward(
    struct slow_exchange *slow, struct dtr_loader *loader, int64_t step)
{
    struct dtr_step_result result;
    slow->refused = -1;
    slow->forward = true;
    slow->replica->ops->forward(slow->replica, dtr_loader_step(loader, step), &result);
    slow->forward = false;
    return result;
}

static int trained_layers(const struct dtr_model *model)
{
    int layers = 0;
    for (int i = 0; i < model->layer_count; i++)
        layers += model->layers[i].kernel >= 0;
    return layers;
}

static struct dtr_step_result slow_step(
    struct slow_exchange *slow, struct dtr_loader *loader, int64_t step)
{
    struct dtr_step_result result = slow_forward(slow, loader, step);
    int64_t count = slow->problem->model->slab_count, stride = slow->exchange.stride;
    slow->lowest = count;
    slow->reports = 0;
    slow->replica->ops->backward(slow->replica, dtr_loader_step(loader, step));
    ck_assert_int_eq(slow->lowest, 0);
    /* One layer after the other, so that the exchange can overlap with the backward pass. */
    ck_assert_int_eq(slow->reports, trained_layers(slow->problem->model));
    for (int64_t k = 0; k < slow->nodes; k++) {
        const float *gradients = slow->exchange.gradients + k * stride;
        ck_assert_msg(
            memcmp(gradients, slow->ready + k * stride, (size_t)count * sizeof *gradients) == 0,
            "gradients changed after they had been ready");
        for (int64_t i = count; i < stride; i++)
            ck_assert_msg(isnan(gradients[i]), "written behind the slab of open node %d", (int)k);
    }
    return result;
}

/* What a training asks for between steps. After even ones a forward pass has brought all parameters
 * already, after odd ones they are away. */
static void check_state(const struct problem *problem, struct dtr_replica *found,
    struct dtr_replica *expected, int64_t step)
{
    float *found_weights = problem_slab(problem), *weights = problem_slab(problem);
    switch (step / 2 % 4) {
    case 0:
        ck_assert_int_eq(found->ops->evaluate(found, &problem->samples),
            expected->ops->evaluate(expected, &problem->samples));
        break;
    case 1: /* what was on its way must not come after these */
        found->ops->set(found, problem->weights);
        expected->ops->set(expected, problem->weights);
        break;
    case 2:
        found->ops->get(found, found_weights);
        expected->ops->get(expected, weights);
        ck_assert_mem_eq(found_weights, weights, problem_slab_bytes(problem));
        break;
    default:
        ck_assert_double_eq(found->ops->decay_loss(found), expected->ops->decay_loss(expected));
    }
    ck_assert(problem_same_tensors(
        problem, found->ops->momenta(found), expected->ops->momenta(expected)));
    free(found_weights);
    free(weights);
}

static void check_late_parameters(enum dtr_kernel_choice kernels, bool eager)
{
    struct problem problem = problem_create(problem_convnet, 50, 8, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 8);
    struct dtr_replica *expected = problem_replica(&problem, 0, 8, 1, kernels);
    struct slow_exchange slow;
    slow_create(&slow, &problem, (struct dtr_shard_run){0, 8, 8}, kernels);
    slow.rate = 0.05F;
    slow.eager = eager;
    for (int64_t step = 0; step < 9; step++) {
        struct dtr_step_result late = slow_step(&slow, loader, step);
        struct dtr_step_result result = problem_step(expected, loader, step);
        problem_check_results(&late, &result);
        ck_assert(problem_same_tensors(
            &problem, slow.exchange.gradients, expected->ops->gradients(expected)));
        problem_apply(expected, &problem, slow.rate);
        if (step % 2 == 0) { /* the loss after the update */
            late = slow_forward(&slow, loader, step);
            expected->ops->forward(expected, dtr_loader_step(loader, step), &result);
            problem_check_results(&late, &result);
        }
        check_state(&problem, slow.replica, expected, step);
    }
    ck_assert_int_gt(slow.waits, 5);
    ck_assert_int_gt(slow.refusals, 5);
    slow_free(&slow);
    problem_replica_free(expected);
    dtr_loader_free(loader);
    problem_free(&problem);
}

START_TEST(test_late_parameters_do_not_change_the_bits)
{
    check_late_parameters(_i % 2 == 0 ? DTR_KERNELS_REFERENCE : DTR_KERNELS_ONEDNN, _i / 2 == 1);
}
END_TEST

/* A rank whose shards are no subtree has the gradients and losses of ranks that have the subtrees
 * that it consists of. */
static void check_open_nodes(
    const struct problem *problem, struct dtr_shard_run run, enum dtr_kernel_choice kernels)
{
    struct dtr_loader *loader = problem_loader(problem, run.first, run.count);
    struct dtr_tree tree = dtr_tree_of(run);
    struct slow_exchange slow;
    slow_create(&slow, problem, run, kernels);
    struct dtr_step_result all = slow_step(&slow, loader, 1);
    int64_t errors = 0;
    ck_assert_int_eq(all.loss.tree.depth, tree.depth);
    for (int64_t k = 0; k < tree.depth; k++) {
        int64_t first = tree.bounds[k], count = tree.bounds[k + 1] - first;
        struct dtr_loader *node_loader = problem_loader(problem, first, count);
        struct dtr_replica *node = problem_replica(problem, first, count, 1, kernels);
        struct dtr_step_result result = problem_step(node, node_loader, 1);
        double loss = problem_loss(&result);
        ck_assert_mem_eq(&all.loss.sums[k], &loss, sizeof loss);
        ck_assert_msg(
            problem_same_tensors(problem, slow.exchange.gradients + k * slow.exchange.stride,
                node->ops->gradients(node)),
            "shards %d to %d of %d: open node %d has other gradients", (int)run.first,
            (int)(run.first + run.count - 1), (int)run.shards, (int)k);
        errors += result.errors;
        problem_replica_free(node);
        dtr_loader_free(node_loader);
    }
    ck_assert_int_eq(all.errors, errors);
    slow_free(&slow);
    dtr_loader_free(loader);
}

START_TEST(test_open_nodes)
{
    static const char other[] = "input 9 7 3\nmaxpool 2\nconv 5 3x3\ndense 7 relu\ndense 4\n";
    static const struct dtr_shard_run runs[] = {
        {1, 3, 8}, {3, 2, 5}, {2, 3, 8}, {0, 7, 8}, {1, 6, 8}, {0, 3, 3}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct problem problem = problem_create(
            i % 2 == 0 ? problem_convnet : other, 61, runs[i].shards, 3);
        check_open_nodes(&problem, runs[i], _i == 0 ? DTR_KERNELS_REFERENCE : DTR_KERNELS_ONEDNN);
        problem_free(&problem);
    }
}
END_TEST

/* Shares of a slab that two ranks update, each of which keeps the momenta of its own one after
 * another. */
struct share {
    int rank;
    int64_t first, count, place;
};

enum { MOST_SHARES = 1000 };

/* Cuts a slab at random places; the shares' places go down from the end of the slab, as the numbers
 * of buckets do. Returns how many there are. */
static int draw_shares(
    struct dtr_random *random, int64_t slab_count, struct share *shares, int64_t *totals)
{
    int number = 0;
    for (int64_t end = slab_count, count; end > 0; end -= count) {
        ck_assert_int_lt(number, MOST_SHARES);
        count = 1 + dtr_random_below(random, 60);
        count = count < end ? count : end;
        int rank = (int)dtr_random_below(random, 2);
        shares[number++] = (struct share){rank, end - count, count, totals[rank]};
        totals[rank] += count;
    }
    return number;
}

static void shuffle(struct dtr_random *random, int number, struct share *shares)
{
    for (int i = number - 1; i > 0; i--) {
        int j = (int)dtr_random_below(random, (uint32_t)i + 1);
        struct share share = shares[i];
        shares[i] = shares[j];
        shares[j] = share;
    }
}

static void nothing_ready(void *context, int64_t first)
{
    (void)context;
    (void)first;
}

static bool all_arrived(void *context, int64_t first, int64_t count)
{
    (void)context;
    (void)first;
    (void)count;
    return true;
}

static void no_wait(void *context, int64_t first, int64_t count)
{
    all_arrived(context, first, count);
}

/* What threads of an exchange do. */
struct updates {
    struct dtr_replica *const *ranks;
    const struct share *shares;
    const float *gradients;
};

static void update_share(void *context, int64_t item, int thread)
{
    const struct updates *updates = context;
    const struct share *share = &updates->shares[item];
    struct dtr_replica *replica = updates->ranks[share->rank];
    (void)thread;
    replica->ops->apply(replica, share->first, share->count, share->place,
        updates->gradients + share->first, 0.05F);
}

/* Two ranks that share a slab of parameters, by shares in any order and on three threads, against a
 * replica that updates everything. */
START_TEST(test_shares_keep_their_momenta)
{
    struct problem problem = problem_create(problem_convnet, 50, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *expected = problem_replica(&problem, 0, 4, 1, DTR_KERNELS_REFERENCE);
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    struct share shares[MOST_SHARES];
    int64_t count = problem.model->slab_count, totals[2] = {0};
    int number = draw_shares(&random, count, shares, totals);
    ck_assert(totals[0] > count / 4 && totals[1] > count / 4);

    float *weights = problem_slab(&problem), *gradients[2];
    struct dtr_replica *ranks[2];
    for (int i = 0; i < 2; i++) {
        gradients[i] = problem_slab(&problem);
        struct dtr_exchange exchange = {.ready = nothing_ready,
            .arrived = all_arrived,
            .wait = no_wait,
            .weights = weights,
            .gradients = gradients[i],
            .stride = count,
            .share_count = totals[i]};
        ranks[i] = problem_replica_on(&problem, 0, 4, 1, DTR_KERNELS_REFERENCE, exchange);
    }
    struct dtr_threads *threads;
    struct dtr_error error = DTR_ERROR_NONE;
    ck_assert_int_eq(dtr_threads_create(3, &threads, &error), DTR_OK);
    for (int64_t step = 0; step < 4; step++) {
        problem_step(expected, loader, step);
        problem_apply(expected, &problem, 0.05F);
        struct dtr_replica *computing = ranks[step % 2];
        problem_step(computing, loader, step);
        struct updates updates = {ranks, shares, computing->ops->gradients(computing)};
        shuffle(&random, number, shares);
        dtr_threads_run(threads, number, update_share, &updates);
    }
    float *found = problem_slab(&problem), *trained = problem_slab(&problem);
    ranks[0]->ops->get(ranks[0], found);
    expected->ops->get(expected, trained);
    ck_assert(problem_same_tensors(&problem, found, trained));
    ck_assert(!problem_same_tensors(&problem, found, problem.weights));
    for (int i = 0; i < number; i++) {
        const float *momenta = ranks[shares[i].rank]->ops->momenta(ranks[shares[i].rank]);
        ck_assert_msg(
            memcmp(momenta + shares[i].place, expected->ops->momenta(expected) + shares[i].first,
                (size_t)shares[i].count * sizeof(float)) == 0,
            "momenta of [%d, +%d)", (int)shares[i].first, (int)shares[i].count);
    }
    dtr_threads_free(threads);
    for (int i = 0; i < 2; i++) {
        problem_replica_free(ranks[i]);
        free(gradients[i]);
    }
    problem_replica_free(expected);
    free(weights);
    free(found);
    free(trained);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("replica exchange");
    TCase *tcase = add_case(suite, "replica exchange");
    tcase_add_loop_test(tcase, test_late_parameters_do_not_change_the_bits, 0, 4);
    tcase_add_loop_test(tcase, test_open_nodes, 0, 2);
    tcase_add_test(tcase, test_shares_keep_their_momenta);
    return suite;
}
