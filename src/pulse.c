#include "dtrain/pulse.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>

static struct {
    _Atomic int64_t beats, looks, step, bucket;
    atomic_int phase, within, updating, gpu;
} pulse = {.step = -1};

void dtr_pulse_beat(void)
{
    atomic_fetch_add_explicit(&pulse.beats, 1, memory_order_relaxed);
}

void dtr_pulse_step(int64_t step)
{
    atomic_store(&pulse.step, step);
}

void dtr_pulse_phase(enum dtr_phase phase)
{
    atomic_store(&pulse.phase, phase);
    dtr_pulse_beat();
}

void dtr_pulse_gpu(int number)
{
    atomic_store(&pulse.gpu, number + 1);
}

void dtr_pulse_enter(enum dtr_within within, int64_t bucket)
{
    atomic_store(&pulse.bucket, bucket);
    atomic_store(&pulse.within, within);
    dtr_pulse_beat();
}

void dtr_pulse_leave(void)
{
    atomic_store(&pulse.within, DTR_WITHIN_NOTHING);
    dtr_pulse_beat();
}

void dtr_pulse_look(void)
{
    atomic_fetch_add_explicit(&pulse.looks, 1, memory_order_relaxed);
}

void dtr_pulse_update(int change)
{
    atomic_fetch_add_explicit(&pulse.updating, change, memory_order_relaxed);
}

struct dtr_pulse dtr_pulse_read(void)
{
    return (struct dtr_pulse){.beats = atomic_load(&pulse.beats),
        .looks = atomic_load(&pulse.looks),
        .step = atomic_load(&pulse.step),
        .phase = (enum dtr_phase)atomic_load(&pulse.phase),
        .within = (enum dtr_within)atomic_load(&pulse.within),
        .bucket = atomic_load(&pulse.bucket),
        .updating = atomic_load(&pulse.updating),
        .gpu = atomic_load(&pulse.gpu)};
}

void dtr_pulse_describe(const struct dtr_pulse *state, char text_out[DTR_PULSE_TEXT])
{
    static const char *const phases[] = {
        [DTR_PHASE_SETUP] = "set-up",
        [DTR_PHASE_DATA] = "data",
        [DTR_PHASE_FORWARD] = "forward pass",
        [DTR_PHASE_BACKWARD] = "backward pass",
        [DTR_PHASE_DEVICE] = "passes queued",
        [DTR_PHASE_EVALUATION] = "evaluation",
        [DTR_PHASE_CHECKPOINT] = "checkpoint",
        [DTR_PHASE_END] = "the end",
    };
    char step[32] = "", within[64] = "", gpu[32] = "";
    if (state->step >= 0)
        snprintf(step, sizeof step, "step %" PRId64 ", ", state->step);
    if (state->within == DTR_WAITS_FOR_OTHERS)
        snprintf(within, sizeof within, ", waiting for other ranks");
    else if (state->within != DTR_WITHIN_NOTHING)
        snprintf(within, sizeof within, ", %sbucket %" PRId64 " of the exchange",
            state->within == DTR_WAITS_FOR_BUCKET ? "waiting for " : "", state->bucket);
    if (state->gpu > 0)
        snprintf(gpu, sizeof gpu, ", GPU %d", state->gpu - 1);
    snprintf(text_out, DTR_PULSE_TEXT, "%s%s%s%s%s", step, phases[state->phase],
        state->updating > 0 ? ", optimizer" : "", within, gpu);
}
