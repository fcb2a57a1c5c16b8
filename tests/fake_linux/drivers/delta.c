#include <module.h>
int core_send(int flags);
int delta_call(void);
int delta_call(void)
{
	return core_send(0);
}
MODULE_LICENSE("GPL");
