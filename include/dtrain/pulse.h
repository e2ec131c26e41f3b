/*
 * The pulse: by it the watchdog (watchdog.h) tells a rank that works from one that hangs. Whoever
 * gets something done says so with a beat, the thread that trains says where it is. Local, for any
 * thread, and cheap enough for inner loops; like the log, one for the process.
 */
#ifndef DTRAIN_PULSE_H
#define DTRAIN_PULSE_H

#include <stdbool.h>
#include <stdint.h>

/* What the thread that trains is at. */
enum dtr_phase {
    DTR_PHASE_SETUP,
    DTR_PHASE_DATA,
    DTR_PHASE_FORWARD,
    DTR_PHASE_BACKWARD,
    DTR_PHASE_DEVICE, /* waits for steps that it has given to a GPU */
    DTR_PHASE_EVALUATION,
    DTR_PHASE_CHECKPOINT,
    DTR_PHASE_END
};

/* What it does within the phase, or waits for. */
enum dtr_within {
    DTR_WITHIN_NOTHING,
    DTR_WITHIN_EXCHANGE,  /* goes on with a bucket */
    DTR_WAITS_FOR_BUCKET, /* looks again and again */
    DTR_WAITS_FOR_OTHERS  /* inside of the MPI library */
};

struct dtr_pulse {
    int64_t
        beats; /* what has been done so far: slices, blocks, buckets, tensors, pieces of files */
    int64_t looks; /* at whether the exchange can go on */
    int64_t step;  /* -1: none */
    enum dtr_phase phase;
    enum dtr_within within;
    int64_t bucket;
    int updating; /* threads inside of the optimizer */
    int gpu;      /* 1 + the number of the GPU that this rank uses, 0: none */
};

void dtr_pulse_beat(void);
void dtr_pulse_step(int64_t step);
void dtr_pulse_phase(enum dtr_phase phase);
void dtr_pulse_gpu(int number);
void dtr_pulse_enter(enum dtr_within within, int64_t bucket);
void dtr_pulse_leave(void);
void dtr_pulse_look(void);

/* +1 before, -1 after the optimizer. */
void dtr_pulse_update(int change);

struct dtr_pulse dtr_pulse_read(void);

enum { DTR_PULSE_TEXT = 160 };

/* "step 1200, forward pass, waiting for bucket 3 of the exchange" */
void dtr_pulse_describe(const struct dtr_pulse *pulse, char text_out[DTR_PULSE_TEXT]);

#endif
