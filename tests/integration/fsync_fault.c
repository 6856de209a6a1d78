// LD_PRELOAD: fsync of a file of a checkpoint fails with EIO while the file named by FSYNC_FAULT is there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fsync(int fd) {
  char link[64], path[4096] = "";
  const char *armed = getenv("FSYNC_FAULT");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (armed && !access(armed, F_OK) && readlink(link, path, sizeof path - 1) > 0 &&
      strstr(path, "/checkpoints/")) {
    errno = EIO;
    return -1;
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
