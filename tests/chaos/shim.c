/* Faults of a disk and of a clock inside a real process, loaded with LD_PRELOAD.
 *
 * ORCA_SHIM_FOLDER: only calls that change something below this folder count.
 * ORCA_SHIM_CONTROL: a file of `struct control`, mapped and shared, so that the test may change the
 * faults while the process runs. `shim.py` holds the same list of fields.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
  volatile int64_t calls;           /* counted so far */
  volatile int64_t kill_at;         /* SIGKILL before the call with this number; 0: never */
  volatile int64_t is_torn;         /* if that call writes, its first half is written before */
  volatile int64_t fail_at;         /* the call with this number, if it is a sync, answers EIO */
  volatile int64_t failed;          /* syncs that did so far */
  volatile int64_t fail_syncs;      /* so many syncs to come answer EIO */
  volatile int64_t sync_delay_us;   /* every sync takes so much longer */
  volatile int64_t is_full;         /* writes and new files answer ENOSPC */
  volatile int64_t clock_offset_s;  /* CLOCK_REALTIME is ahead by so much */
};

static struct control *control;
static const char *folder;
static size_t folder_length;

__attribute__((constructor)) static void prepare(void) {
  const char *file = getenv("ORCA_SHIM_CONTROL");
  folder = getenv("ORCA_SHIM_FOLDER");
  if (!file || !folder) return;
  folder_length = strlen(folder);
  int fd = open(file, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped != MAP_FAILED) control = mapped;
}

static int is_inside(const char *path) {
  return !strncmp(path, folder, folder_length) &&
         (path[folder_length] == '/' || path[folder_length] == 0);
}

static int is_ours(int fd) {
  char link[64], path[4096];
  if (!control) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return is_inside(path);
}

static int is_ours_path(const char *path) { return control && path && is_inside(path); }

static int64_t next_call(void) { return __sync_add_and_fetch(&control->calls, 1); }

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* The number of this call, which goes on. */
static int64_t count(void) {
  int64_t number = next_call();
  if (number == control->kill_at) die();
  return number;
}

#define NEXT(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

/* -1 with errno, or 0: go on. `half` writes the first half. */
#define WRITES(half)                          \
  if (next_call() == control->kill_at) {      \
    if (control->is_torn) (void)!(half);      \
    die();                                    \
  }                                           \
  if (control->is_full) {                     \
    errno = ENOSPC;                           \
    return -1;                                \
  }

ssize_t write(int fd, const void *data, size_t size) {
  if (is_ours(fd)) {
    WRITES(NEXT(write)(fd, data, size / 2))
  }
  return NEXT(write)(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  if (is_ours(fd)) {
    WRITES(NEXT(pwrite)(fd, data, size / 2, at))
  }
  return NEXT(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  if (is_ours(fd)) {
    WRITES(NEXT(pwrite64)(fd, data, size / 2, at))
  }
  return NEXT(pwrite64)(fd, data, size, at);
}

/* Whether this sync fails. */
static int syncs(void) {
  int64_t number = count();
  if (control->sync_delay_us) {
    struct timespec pause = {control->sync_delay_us / 1000000,
                             control->sync_delay_us % 1000000 * 1000};
    nanosleep(&pause, NULL);
  }
  if (number != control->fail_at && control->fail_syncs <= 0) return 0;
  if (control->fail_syncs > 0) __sync_sub_and_fetch(&control->fail_syncs, 1);
  __sync_add_and_fetch(&control->failed, 1);
  errno = EIO;
  return 1;
}

int fsync(int fd) {
  return is_ours(fd) && syncs() ? -1 : NEXT(fsync)(fd);
}

int fdatasync(int fd) {
  return is_ours(fd) && syncs() ? -1 : NEXT(fdatasync)(fd);
}

int ftruncate(int fd, off_t size) {
  if (is_ours(fd)) count();
  return NEXT(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) {
  if (is_ours(fd)) count();
  return NEXT(ftruncate64)(fd, size);
}

int rename(const char *from, const char *to) {
  if (is_ours_path(from)) count();
  return NEXT(rename)(from, to);
}

int unlink(const char *path) {
  if (is_ours_path(path)) count();
  return NEXT(unlink)(path);
}

int rmdir(const char *path) {
  if (is_ours_path(path)) count();
  return NEXT(rmdir)(path);
}

int mkdir(const char *path, mode_t mode) {
  if (is_ours_path(path)) count();
  return NEXT(mkdir)(path, mode);
}

/* An open that may create: the file is new, or the call changes nothing. */
#define OPENS(name)                                                     \
  int name(const char *path, int flags, ...) {                          \
    va_list rest;                                                       \
    va_start(rest, flags);                                              \
    mode_t mode = va_arg(rest, mode_t);                                 \
    va_end(rest);                                                       \
    if (flags & O_CREAT && is_ours_path(path) && access(path, F_OK)) {  \
      count();                                                          \
      if (control->is_full) {                                           \
        errno = ENOSPC;                                                 \
        return -1;                                                      \
      }                                                                 \
    }                                                                   \
    return NEXT(name)(path, flags, mode);                               \
  }

OPENS(open)
OPENS(open64)

/* The wall clock. Monotonic time is left alone: nobody jumps that. */
int clock_gettime(clockid_t id, struct timespec *now) {
  int result = NEXT(clock_gettime)(id, now);
  if (!result && id == CLOCK_REALTIME && control) now->tv_sec += control->clock_offset_s;
  return result;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
