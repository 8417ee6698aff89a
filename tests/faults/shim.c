/* Loaded into a process with LD_PRELOAD: its disk fails and its clock is wrong when a small file says so.

   HEARKEN_FAULTS names that file, which is mapped: three 64-bit numbers, see tests/faults/shim.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int64_t fsync_fails;   /* fsync and fdatasync give EIO */
    int64_t disk_is_full;  /* writes to regular files give ENOSPC */
    int64_t clock_seconds; /* added to the wall clock */
};

static const struct faults none;

static const struct faults *faults(void) {
    static const struct faults *mapped;
    if (mapped == NULL) {
        const char *path = getenv("HEARKEN_FAULTS");
        int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
        if (fd >= 0)
            close(fd);
        mapped = at == MAP_FAILED ? &none : at;
    }
    return mapped;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_full(int fd) {
    struct stat about;
    return faults()->disk_is_full && fstat(fd, &about) == 0 && S_ISREG(about.st_mode);
}

static int refused(int error) {
    errno = error;
    return -1;
}

int fsync(int fd) { return faults()->fsync_fails ? refused(EIO) : REAL(fsync)(fd); }
int fdatasync(int fd) { return faults()->fsync_fails ? refused(EIO) : REAL(fdatasync)(fd); }

ssize_t write(int fd, const void *from, size_t size) {
    return is_full(fd) ? refused(ENOSPC) : REAL(write)(fd, from, size);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    return is_full(fd) ? refused(ENOSPC) : REAL(pwrite)(fd, from, size, at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    return is_full(fd) ? refused(ENOSPC) : REAL(pwrite64)(fd, from, size, at);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += faults()->clock_seconds;
    return result;
}
int gettimeofday(struct timeval *now, void *zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (result == 0)
        now->tv_sec += faults()->clock_seconds;
    return result;
}
time_t time(time_t *where) {
    time_t now = REAL(time)(NULL) + faults()->clock_seconds;
    if (where != NULL)
        *where = now;
    return now;
}
