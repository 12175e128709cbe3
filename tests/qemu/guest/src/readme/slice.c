// SPDX-License-Identifier: GPL-2.0
/* The owner of a device and a client of one page: ./slice /dev/vfio/GROUP 0000:01:00.0 */
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vfio_dmabuf.h>

static int ok(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

/* Sends FD over a UNIX socket, or receives one if FD is -1. */
static int pass_fd(int socket, int fd)
{
	static union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control;
	static struct msghdr message;
	static char byte;
	struct iovec data = { &byte, 1 };

	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = &control;
	message.msg_controllen = sizeof(control);
	control.head.cmsg_len = CMSG_LEN(sizeof(fd));
	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	ok(fd < 0 ? recvmsg(socket, &message, 0) : sendmsg(socket, &message, 0), "socket");
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	return fd;
}

/* The client needs no VFIO fd and no privilege: the dma-buf fd is enough. */
static void run_client(int socket)
{
	void *page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED,
			  pass_fd(socket, -1), 0);
	volatile __u32 *registers = (volatile __u32 *)page;

	ok(page == MAP_FAILED ? -1 : 0, "mmap");
	dprintf(STDOUT_FILENO, "the client reads %#x at 0\n", registers[0]);
	ok(write(socket, "", 1), "write");
	for (;;)
		(void)registers[0]; /* SIGBUS as soon as the slice is revoked */
}

int main(int argc, char **argv)
{
	struct { /* struct vfio_device_feature with struct vfio_device_feature_dma_buf, one range */
		__u32 argsz, flags, bar, open_flags, export_flags, nr_ranges;
		struct vfio_region_dma_range range;
	} page = { sizeof(page), VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		   0, O_RDWR | O_CLOEXEC, VFIO_DMABUF_BUFFER, 1,
		   { 0, (__u64)sysconf(_SC_PAGESIZE) } };
	struct { /* struct vfio_device_feature with the fd of a buffer */
		__u32 argsz, flags;
		__s32 slice;
	} revoke = { sizeof(revoke), VFIO_DEVICE_FEATURE_SET | VFIO_DMABUF_REVOKE, -1 };
	int sockets[2], container, group, device, status;

	if (argc != 3)
		errx(2, "usage: slice /dev/vfio/GROUP ADDRESS");
	ok(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), "socketpair");
	if (ok(fork(), "fork") == 0)
		run_client(sockets[1]);
	close(sockets[1]);

	container = ok(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio");
	group = ok(open(argv[1], O_RDWR), argv[1]);
	ok(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	ok(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	device = ok(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]), "VFIO_GROUP_GET_DEVICE_FD");

	revoke.slice = ok(ioctl(device, VFIO_DEVICE_FEATURE, &page), "export");
	pass_fd(sockets[0], revoke.slice);
	ok(read(sockets[0], &status, 1), "read"); /* the client has used the page */
	ok(ioctl(device, VFIO_DEVICE_FEATURE, &revoke), "revoke");

	ok(wait(&status), "wait");
	printf("signal %d ended the client\n", WTERMSIG(status));
	return WTERMSIG(status) != SIGBUS;
}
