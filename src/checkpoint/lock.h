/*
 * A folder belongs to one run at a time: the run's lock is a file in it that says who has it, and
 * whose time of change is renewed while the run lives. Private to src/checkpoint/. Local.
 *
 * A lock is stale, and is taken over, when its process is known to have ended: on the same host by
 * asking for it, in Slurm as soon as the same job has been started again; a process on another host
 * (or in another container) counts as ended when the lock has not been renewed for LOCK_STALE_S.
 * No file lock of the system: some cluster file systems have none.
 */
#ifndef DTRAIN_CHECKPOINT_LOCK_H
#define DTRAIN_CHECKPOINT_LOCK_H

#include "dtrain/status.h"
#include "store.h"

#include <stdbool.h>
#include <sys/types.h>

enum { LOCK_STALE_S = 120, LOCK_RENEW_S = 20 };

/* Who has a folder. */
struct lock_owner {
    char host[65];
    long long process, started; /* process number; when it began, in the kernel's ticks */
    char space[64];             /* the namespace in which that number means something */
    char job[32];               /* Slurm's, "" outside */
    long long restart;          /* how often Slurm has started the job again */
};

struct lock {
    int fd; /* -1: not taken */
    ino_t inode;
};

/* This process. */
struct lock_owner lock_me(void);

/* Whether a lock that was renewed `age_s` ago, as seen by `me`, has no owner any more. */
bool lock_is_stale(const struct lock_owner *owner, const struct lock_owner *me, double age_s);

/* DTR_USAGE where another run has the folder: the message names it. DTR_WRITE where no lock can be
 * written. */
enum dtr_status lock_take(
    const struct store *store, struct lock *lock_out, struct dtr_error *error);

/* Whether nobody else has taken the folder, believing this run to be dead. */
bool lock_renew(const struct store *store, const struct lock *lock);

void lock_release(const struct store *store, struct lock *lock);

#endif
