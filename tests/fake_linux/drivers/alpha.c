#include <module.h>
int core_answer(void);
int alpha_call(void);
int alpha_call(void)
{
	return core_answer();
}
EXPORT_SYMBOL(alpha_call);
MODULE_LICENSE("GPL");
